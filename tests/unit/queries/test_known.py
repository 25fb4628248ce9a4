"""Which expressions can be cached."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest
from django.contrib.postgres.fields import ArrayField
from django.db.models import (
    Aggregate,
    CharField,
    Count,
    DateField,
    DateTimeField,
    ExpressionWrapper,
    F,
    Func,
    IntegerField,
    TimeField,
    Value,
)
from django.db.models.expressions import CombinedExpression, RawSQL
from django.db.models.functions import Cast, Coalesce, Concat, Left, Lower, Now, Random
from django.db.models.lookups import Exact
from django.db.models.sql import Query
from django.db.models.sql.where import ExtraWhere

from cachebackend.queries.known import KNOWN_MODULES, VOLATILE, check_known, check_query, check_stable
from cachebackend.queries.not_cached import NotCached
from tests.zoo.models import Author

#: Words in the names of functions that have another value each time.
_OF_TIME_OR_CHANCE = ("now", "random", "uuid", "today", "current", "seed", "clock", "transaction")


class Own(Func):
    function = "OWN"


class OwnCount(Count):
    pass


class RangeOfTimes(CharField):
    """A field that is compared as those of ranges and arrays are, which need psycopg."""

    base_field = DateTimeField()


@pytest.mark.parametrize("lookup", ["contains", "overlap", "exact"])
def test_a_list_that_an_array_is_compared_with_is_known(lookup: str) -> None:
    """Django makes a function of it; other functions with such SQL are the caller's."""
    numbers = ArrayField(IntegerField())
    compared = numbers.get_lookup(lookup)(ExpressionWrapper(F("x"), numbers), [1, 2]).rhs  # type: ignore[misc]
    assert type(compared) is Func
    check_known(compared)
    with pytest.raises(NotCached):
        check_known(Func(Value(1), function="ARRAY", template="%(function)s[now()]"))


@pytest.mark.parametrize("expression", [F("x"), Value(1), Lower("x"), Count("x")])
def test_django_s_expressions_are_known(expression: Any) -> None:
    """They read the columns in them, and nothing else."""
    check_known(expression)
    check_stable(expression)


@pytest.mark.parametrize(
    "expression",
    [
        Own("x"),
        OwnCount("x"),
        Func("x", function="F"),
        Aggregate("x"),
        RawSQL("x", ()),
        ExtraWhere(["x"], []),
        Lower("x", function="NOW"),
        Lower("x", template="now()"),
        Coalesce("x", "y", arg_joiner=", random(), "),
        CombinedExpression(F("x"), "+ (SELECT max(id) FROM other) +", F("y")),
    ],
)
def test_what_a_caller_writes_is_not_known(expression: Any) -> None:
    """It may read any table."""
    with pytest.raises(NotCached):
        check_known(expression)


@pytest.mark.parametrize("expression", [Now(), Random()])
def test_functions_of_time_and_chance_are_not_stable(expression: Any) -> None:
    """A result of them is wrong at once, without any write."""
    with pytest.raises(NotCached, match="each time"):
        check_stable(expression)


def test_every_function_of_time_or_chance_in_the_known_modules_is_listed() -> None:
    """A version of Django may add one."""
    found = {
        each
        for module in KNOWN_MODULES
        for name, each in inspect.getmembers(import_module(module), inspect.isclass)
        if each.__module__ == module
        and issubclass(each, Func)
        and any(word in name.lower() for word in _OF_TIME_OR_CHANCE)
    }
    assert {each.__name__ for each in found} <= {"Now", "Random"}
    assert found <= VOLATILE


def test_a_query_of_another_class_is_not_known() -> None:
    """It may compile itself as it likes."""

    class OwnQuery(Query):
        pass

    with pytest.raises(NotCached, match="OwnQuery"):
        check_query(OwnQuery(Author))


def test_a_backend_with_its_own_compiler_is_not_known() -> None:
    """Its SQL may be anything."""
    with pytest.raises(NotCached, match="compiles"):
        check_query(Author.objects.all().query, Own)


def test_a_query_that_locks_rows_is_refused() -> None:
    """A result from the cache locks nothing."""
    with pytest.raises(NotCached, match="locks"):
        check_query(Author.objects.select_for_update().query)


_PRESENT_TIMES: dict[str, Any] = {
    "a word": Value("now"),
    "a word and a time": Value(" Today 12:00"),
    "a call": Value("now()"),
    "a word and a sign": Value("NOW,"),
    "a word without a space": Value("today10:00"),
    "after many spaces": Value(" " * 100 + "now"),
    "a range": Value("[today,)"),
    "an array": Value(["x", "now"]),
    "what a range is compared with": Exact(ExpressionWrapper(F("x"), RangeOfTimes()), "[yesterday,tomorrow]"),
    "a text that is made": Cast(Concat(Value("no"), Value("w")), DateTimeField()),
    "a part of a text": Cast(Left(Value("nowhere"), 3), TimeField()),
    "a column": Cast(ExpressionWrapper(F("x"), CharField()), DateField()),
    "a column of an unknown type": Cast(F("x"), DateField()),
    "several": Cast(ExpressionWrapper(F("x"), CharField()), RangeOfTimes()),
}


@pytest.mark.parametrize("name", _PRESENT_TIMES)
def test_a_text_may_stand_for_the_present_time(name: str) -> None:
    """Postgres reads it so if it is cast to a date or time."""
    with pytest.raises(NotCached, match="present time"):
        check_stable(_PRESENT_TIMES[name])


@pytest.mark.parametrize(
    "expression",
    [
        Value("nowhere"),
        Value("unknown"),
        Value(["x"]),
        Value(7),
        Exact(F("x"), "now"),
        Cast(Value("2026-01-01"), DateField()),
        Cast(ExpressionWrapper(F("x"), DateTimeField()), DateField()),
        Cast(F("x"), CharField()),
    ],
    ids=repr,
)
def test_other_texts_are_what_they_are(expression: Any) -> None:
    """So is one that a column of texts is compared with; so are constants and times cast to times."""
    check_stable(expression)
