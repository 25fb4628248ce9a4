"""Functions and their arguments as parts of keys."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from enum import Enum, Flag, IntFlag
from functools import lru_cache, partial, wraps
from typing import Any

import pytest
from django.db.transaction import atomic
from django.utils.safestring import mark_safe

from cachebackend.backend.call_names import (
    arguments_digest,
    call_scope,
    captures_digest,
    function_name,
    has_captures,
)
from cachebackend.backend.scope import scope_of
from cachebackend.codec import EncodeError
from tests.shop.models import Line, Product, SaleProduct, Tag


class Color(Enum):
    """An argument that is a member of an enumeration."""

    RED = 1


class Right(Flag):
    """An argument that is a combination of flags."""

    READ = 1
    WRITE = 2
    NEXT = 16


class Loose(IntFlag):
    """Flags of which some have no name."""

    READ = 1


def adder(number: int) -> Callable[[int], int]:
    def add(other: int) -> int:
        return number + other

    return add


def digest(value: Any, function: Any = None) -> str:
    return arguments_digest({"value": value}, function)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, "1"), (1, True), (1, 1.0), (0.0, -0.0), ((1,), [1]), ({1}, [1]), ({1}, frozenset({1})),
        ({"a": 1}, [("a", 1)]), (None, ""), ([[1], 2], [1, [2]]), (Decimal("1.5"), Decimal("1.50")),
        (b"a", "a"), (b"a", bytearray(b"a")), ({1: "a"}, {"1": "a"}), ({1, 2}, {"1", "2"}),
        (Color.RED, 1), (int, str), (Right(0), Right.READ), (Right.READ | Right.WRITE, Right.READ),
        (Loose(8), Loose(32)), (Tag(pk=1), Product(pk=1)), (Product(pk=1), SaleProduct(pk=1)),
        (Line(pk=(1, 2)), Line(pk=(2, 1))), (adder(1), adder(2)), (adder, adder(1)),
        (partial(adder, 1), partial(adder, 2)), (partial(adder, 1), partial(adder, number=1)),
        (Tag.from_db("default", ["id"], [1]), Tag.from_db("lite", ["id"], [1])), ("x" * 500, "x" * 501),
    ],
)  # fmt: skip
def test_arguments_that_differ_have_different_digests(one: Any, other: Any) -> None:
    """By type as well as by value, at any depth; rows by their database too."""
    assert digest(one) != digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}),
        ({"b", "a", "c"}, {"c", "b", "a"}),
        (Tag(pk=1, name="x"), Tag(pk="1", name="y")),
        (adder(1), adder(1)),
    ],
)
def test_equal_arguments_have_one_digest(one: Any, other: Any) -> None:
    """Sets and dicts have no order; a row is its model and primary key."""
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "object"),
        (Tag(), "has the primary key None; save it first"),
        ([Line(order=1)], "save it first"),
        (mark_safe("x"), "SafeString"),
        (type("Local", (), {}), "cannot be imported by its name"),
        (partial(adder, object()), "object"),
    ],
)
def test_what_cannot_be_named_exactly_is_refused(value: Any, says: str) -> None:
    """The message says why."""
    with pytest.raises(EncodeError, match=says):
        digest(value)


def test_functions_at_two_places_have_two_names() -> None:
    """Two lambdas on one line too; a function with a global name is that name."""
    one, other = (lambda: 1), (lambda: 2)
    assert function_name(one) != function_name(other)
    assert function_name(adder) == f"{__name__}.adder" == function_name(partial(adder, 1))
    assert function_name(adder(1)) == function_name(adder(2))
    assert function_name("".join).startswith("builtins.")


def test_a_function_of_a_script_has_one_name_in_every_process() -> None:
    """Also if it holds another function, or a set whose order differs."""
    script = (
        "import django; django.setup()\n"
        "from cachebackend.backend.call_names import function_name\n"
        "def outer(): return lambda: 1 if 'x' in {'a', 'b', 'c', 'd'} else 2\n"
        "print(function_name(outer))"
    )
    names = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed, "DJANGO_SETTINGS_MODULE": "tests.settings"},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(names) == 1
    assert "__main__.outer@" in names.pop()


def doubled(function: Callable[[int], int]) -> Callable[[int], int]:
    @wraps(function)
    def call(number: int) -> int:
        return 2 * function(number)

    return call


def tripled(function: Callable[[int], int]) -> Callable[[int], int]:
    @wraps(function)
    def call(number: int) -> int:
        return 3 * function(number)

    return call


def same() -> int:
    return 1


first = same


def same() -> int:  # type: ignore[no-redef]  # two functions of one name are the point
    return 2


class Shop:
    """Functions in a class."""

    @property
    def name(self) -> str:
        return "shop"

    @staticmethod
    def size() -> int:
        return 1


def test_a_wrapper_is_named_by_its_own_code() -> None:
    """``functools.wraps`` gives it the name of the function that it wraps."""
    names = {function_name(each) for each in (doubled(adder), tripled(adder), adder)}
    assert len(names) == 3


def test_two_functions_of_one_name_have_two_names() -> None:
    """The later one has the name; the other one is named by its place too."""
    assert function_name(same) == f"{__name__}.same"
    assert function_name(first).startswith(f"{__name__}.same@")


def test_a_decorated_function_is_found_by_its_name() -> None:
    """In a class too."""
    assert function_name(Shop.__dict__["name"].fget) == f"{__name__}.Shop.name"
    assert function_name(Shop.size) == f"{__name__}.Shop.size"


@atomic
def one() -> int:
    return 1


@atomic
def two() -> int:
    return 2


@lru_cache
def three() -> int:
    return 3


def test_two_functions_in_one_kind_of_wrapper_have_two_names() -> None:
    """Although the wrappers have one code."""
    assert len({function_name(each) for each in (one, two, one.__wrapped__)}) == 3  # type: ignore[attr-defined]  # it is wrapped
    assert function_name(three) == f"{__name__}.three"


def test_functions_of_c_are_named() -> None:
    """They have no code, but a module and a name."""
    assert (function_name(math.floor), function_name(math.ceil)) == ("math.floor", "math.ceil")


def test_functions_of_scripts_are_named_by_their_code() -> None:
    """Each script and shell is the module ``__main__``."""
    spaces: list[dict[str, Any]] = [{"__name__": "__main__"}, {"__name__": "__main__"}]
    for space, number in zip(spaces, "12", strict=True):
        exec(f"def report(): return {number}", space)  # a module of that name
    assert function_name(spaces[0]["report"]) != function_name(spaces[1]["report"])


def test_bound_values_that_have_names_distinguish_functions() -> None:
    """Beside a text of the caller; a function has them in its wrappers too."""
    locked = [doubled(adder(number)) for number in (1, 2)]
    assert captures_digest(locked[0]) != captures_digest(locked[1])
    assert captures_digest(adder(1)) != captures_digest(adder(2))
    assert captures_digest("a".join) != captures_digest("b".join)
    assert captures_digest(Tag(pk=1).save) != captures_digest(Tag(pk=2).save)
    assert captures_digest(same) == captures_digest(math.floor) == captures_digest(three) == ""
    assert captures_digest(one) == captures_digest(one)  # it holds an object without a name


def test_an_object_that_nothing_distinguishes_is_refused() -> None:
    """Two of its class would share their results."""

    class Call:
        def __call__(self) -> int:
            return 1

    for function in (Call(), Call().__call__):
        with pytest.raises(EncodeError):
            captures_digest(function)


def test_values_that_a_function_holds_are_part_of_the_digest() -> None:
    """The values of a closure, of a partial function, and the instance of a method."""
    assert [has_captures(each) for each in (adder, adder(1), partial(adder, 1), math.sqrt)] == [
        False,
        True,
        True,
        True,
    ]
    assert digest(0, adder(1)) != digest(0, adder(2))
    assert digest(0, Tag(pk=1).save) != digest(0, Tag(pk=2).save)
    with pytest.raises(EncodeError, match="save it first"):
        digest(0, Tag().save)


def test_a_function_that_refers_to_itself_has_a_digest() -> None:
    """It is named once."""

    def countdown(number: int) -> int:
        return countdown(number - 1) if number else 0

    assert digest(0, countdown) == digest(0, countdown)


def test_a_variable_without_a_value_is_refused() -> None:
    """Its value could differ by the time of the call."""

    def early() -> Any:
        return late

    with pytest.raises(EncodeError, match="has no value yet"):
        digest(0, early)
    late = 1
    assert digest(0, early)


class TenantRouter:
    """Sends everything to the database of a tenant, and asks each model for its app."""

    def db_for_write(self, model: Any, **_: Any) -> str:
        return "lite" if model._meta.app_label == "cachebackend" else "default"


def test_calls_have_the_scope_of_the_database_that_the_router_chooses(settings: Any) -> None:
    """So tests do not read results of the site, and tenants not each other's."""
    assert call_scope() == scope_of("default")
    settings.DATABASE_ROUTERS = [TenantRouter()]
    assert call_scope() == scope_of("lite")


class StrictRouter:
    """Raises an error while no tenant is set."""

    def db_for_write(self, model: Any, **_: Any) -> str:
        raise LookupError(model)


def test_a_router_that_raises_leaves_the_scope_of_the_default_database(settings: Any) -> None:
    """A function that needs no tenant can be cached outside of a request."""
    settings.DATABASE_ROUTERS = [StrictRouter()]
    assert call_scope() == scope_of("default")
