"""Constructions: how a queryset was made, so that one that is made in the same way is not compiled again.

To build and compile a query costs more than to read its result. A queryset of a manager therefore
notes the methods that made it, with their arguments. If Django has accepted the same construction before,
the queryset only notes the next step, and builds its query when something needs it. What was read of a
construction is remembered (``remember``): its plan, and how its rows become the result.

A construction is a number. Two constructions have one number only if they are the same steps with the
same arguments, by type and value. What the SQL takes from its surroundings is asked for with each
read (``surroundings``): the time zone, the language, and the scope, which names database and namespace.
"""

from __future__ import annotations

from collections.abc import Hashable
from copy import copy
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from itertools import count
from typing import Any
from uuid import UUID

from django.core.exceptions import FieldDoesNotExist
from django.core.signals import setting_changed
from django.db import models
from django.db.models import F, Q
from django.db.models.signals import class_prepared, post_migrate
from django.utils.timezone import get_current_timezone
from django.utils.translation import get_language

from cachebackend.backend.lazy_objects import loaded
from cachebackend.backend.scope import scope_of
from cachebackend.queries.options import QueryOptions
from cachebackend.queries.params import text_of_moment
from cachebackend.queries.plans import Plan
from cachebackend.queries.whole_rows import NOTHING, Before, WholeRows

__all__ = ["Remembered", "accepted", "begun", "followed", "kept", "recall", "remember", "surroundings"]

#: The most constructions, and the most remembered reads, of a process.
_MAX_KNOWN = 20_000
#: The most items of a list that is an argument, and the most bytes that a text or number takes.
_MAX_ITEMS, _MAX_BYTES = 100, 1000
_numbers = count(1)
_begun: dict[Hashable, int] = {}
_known: dict[Hashable, int] = {}
_remembered: dict[Hashable, Remembered] = {}
#: The types of values of which two are the same argument if they are equal.
_EXACT = frozenset({bool, bytes, int, str, type(None), UUID})
#: The types of values that nothing can change, as far as they are frequent.
_UNCHANGED = _EXACT | {slice, F}


@dataclass(slots=True)
class Remembered:
    """What was read of a construction.

    Attributes:
        plan: The plan of its statement.
        form: How the rows of the statement become the result.
        whole: What reads the instances, if the result holds their primary keys.
        before: What the last read of the instances had.
    """

    plan: Plan
    form: Any
    whole: WholeRows | None = None
    before: Before = NOTHING


class _Unknown(Exception):  # noqa: N818  # an argument that two constructions cannot be compared by
    """An argument is not one of those that can be compared."""


def begun(model: type[models.Model], options: QueryOptions) -> int:
    """Return the construction of a manager's queryset, before any step."""
    return _number(_begun, (model, options))


def followed(
    construction: int, model: type[models.Model], name: str, args: Any, kwargs: dict[str, Any]
) -> tuple[Hashable, int | None] | None:
    """Return the step that follows a construction, and its number if it is known.

    Args:
        construction: The construction.
        model: The model of the queryset.
        name: The name of the method.
        args: Its arguments.
        kwargs: Its named arguments.

    Returns:
        None: an argument cannot be compared, so the queryset has no construction.
    """
    try:
        named = [(key, _compared_named(model, key, each)) for key, each in kwargs.items()]
        step = (construction, name, _compared(args), tuple(named))
    except _Unknown:
        return None
    return step, _known.get(step)


def kept(value: Any) -> Any:
    """Return an argument that ``followed`` has compared as it is now: the caller may change it later."""
    kind = type(value)  # the class that a lazy object pretends to have is not its type
    if kind is tuple or kind is list:
        return kind([each if type(each) in _UNCHANGED else kept(each) for each in value])
    if kind is dict:
        return {name: each if type(each) in _UNCHANGED else kept(each) for name, each in value.items()}
    if kind is Q:
        copied = copy(value)
        copied.children = kept(value.children)
        return copied
    if isinstance(value, models.Model):
        given = loaded(value)
        row: Any = object.__new__(type(given))
        row.__dict__.update(given.__dict__)
        return row
    return value


def accepted(step: Hashable) -> int:
    """Return the number of a step that Django has accepted."""
    return _number(_known, step)


def surroundings(using: str) -> Hashable:
    """Return what the SQL of a query may take from its surroundings."""
    zone = get_current_timezone()
    return zone, str(zone), get_language(), scope_of(using)


def recall(construction: int, kind: str, around: Hashable) -> Remembered | None:
    """Return what was read of a construction, in these surroundings."""
    return _remembered.get((construction, kind, around))


def remember(construction: int, kind: str, around: Hashable, read: Remembered) -> None:
    """Remember what was read of a construction, in these surroundings."""
    if len(_remembered) >= _MAX_KNOWN:
        _remembered.clear()
    _remembered[construction, kind, around] = read


def _number(numbers: dict[Hashable, int], key: Hashable) -> int:
    number = numbers.get(key)
    if number is None:
        if len(numbers) >= _MAX_KNOWN:
            numbers.clear()
        number = numbers[key] = next(_numbers)  # never used again, also if the others are forgotten
    return number


def _compared(value: Any) -> Hashable:
    """Return what an argument is compared by.

    Raises:
        _Unknown: Two values that are equal may make different queries, or a value may change.
    """
    kind = type(value)
    if kind in _EXACT:
        if kind in {str, bytes, int} and value.__sizeof__() > _MAX_BYTES:
            raise _Unknown
        return kind, value
    if kind is tuple or kind is list:
        if len(value) > _MAX_ITEMS:
            raise _Unknown
        return kind, tuple(map(_compared, value))
    if kind is dict:
        return kind, tuple((_compared(name), _compared(each)) for name, each in value.items())
    if kind is slice:
        return kind, _compared((value.start, value.stop, value.step))
    if kind is Q:
        return kind, value.connector, value.negated, _compared(value.children)
    if kind is F:
        return kind, value.name
    if kind is date:
        return kind, value
    if kind is datetime:
        return kind, text_of_moment(value)
    if kind.__module__ == "decimal":
        return kind, str(value)
    raise _Unknown


def _compared_named(model: type[models.Model], name: str, value: Any) -> Hashable:
    """Return what a named argument is compared by; raises as ``_compared``.

    An instance is compared by what Django puts into the query. That is known for a foreign key alone: a
    column of text is compared with the text of the instance, and other relations have other columns.
    """
    if not isinstance(value, models.Model):
        return _compared(value)
    value = loaded(value)
    key = _foreign_key(model, name)
    if key is None or not issubclass(type(value), key.related_model) or value.pk is None:
        raise _Unknown  # Django refuses it, also where another field is compared
    related = key.get_foreign_related_value(value)
    if any(type(each) not in {int, str, UUID} for each in related):
        raise _Unknown
    return type(value), _compared(related), value._state.db


@lru_cache
def _foreign_key(model: type[models.Model], name: str) -> Any:
    """Return the foreign key of a model with this name; None if there is none."""
    try:
        field = model._meta.get_field(name)
    except FieldDoesNotExist:
        return None
    return field if isinstance(field, models.ForeignKey) else None


def _forget(**_: Any) -> None:
    _begun.clear()
    _known.clear()
    _remembered.clear()
    _foreign_key.cache_clear()


for _signal in (class_prepared, post_migrate, setting_changed):
    _signal.connect(_forget, dispatch_uid="ringcache:constructions")
