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

from collections.abc import Hashable, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from itertools import count
from typing import Any
from uuid import UUID

from django.core.signals import setting_changed
from django.db import models
from django.db.models import F, Q
from django.db.models.signals import class_prepared, post_migrate
from django.utils.timezone import get_current_timezone_name
from django.utils.translation import get_language

from cachebackend.backend.scope import scope_of
from cachebackend.queries.options import QueryOptions
from cachebackend.queries.plans import Plan

__all__ = ["Remembered", "accepted", "begun", "followed", "kept", "recall", "remember", "surroundings"]

#: The most constructions, and the most remembered reads, of a process.
_MAX_KNOWN = 20_000
#: The most items of a list that is an argument.
_MAX_ITEMS = 100
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
        keys: The primary keys that the result had when it was read last, if they are few: their rows are
            read beside the result.
    """

    plan: Plan
    form: Any
    keys: Sequence[Any] = ()


class _Unknown(Exception):  # noqa: N818  # an argument that two constructions cannot be compared by
    """An argument is not one of those that can be compared."""


def begun(model: type[models.Model], options: QueryOptions) -> int:
    """Return the construction of a manager's queryset, before any step."""
    return _number(_begun, (model, options))


def followed(construction: int, name: str, args: Any, kwargs: Any) -> tuple[Hashable, int | None] | None:
    """Return the step that follows a construction, and its number if it is known.

    Returns:
        None: an argument cannot be compared, so the queryset has no construction.
    """
    try:
        step = (construction, name, _compared(args), _compared(kwargs) if kwargs else None)
    except _Unknown:
        return None
    return step, _known.get(step)


def kept(value: Any) -> Any:
    """Return an argument that ``followed`` has compared as it is now: the caller may change it later."""
    kind = value.__class__
    if kind is tuple or kind is list:
        return kind([each if each.__class__ in _UNCHANGED else kept(each) for each in value])
    if kind is dict:
        return {name: each if each.__class__ in _UNCHANGED else kept(each) for name, each in value.items()}
    if kind is Q:
        copied = copy(value)
        copied.children = kept(value.children)
        return copied
    if isinstance(value, models.Model):
        row: Any = object.__new__(kind)
        row.__dict__.update(value.__dict__)
        return row
    return value


def accepted(step: Hashable) -> int:
    """Return the number of a step that Django has accepted."""
    return _number(_known, step)


def surroundings(using: str) -> Hashable:
    """Return what the SQL of a query may take from its surroundings."""
    return get_current_timezone_name(), get_language(), scope_of(using)


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
    kind = value.__class__
    if kind in _EXACT:
        return kind, value
    if kind is tuple or kind is list:
        if len(value) > _MAX_ITEMS:
            raise _Unknown
        return kind, tuple(map(_compared, value))
    if kind is dict:
        return kind, tuple((name, _compared(each)) for name, each in value.items())
    if kind is slice:
        return kind, _compared((value.start, value.stop, value.step))
    if isinstance(value, models.Model):
        return _compared_instance(value)
    if kind is Q:
        return kind, value.connector, value.negated, _compared(value.children)
    if kind is F:
        return kind, value.name
    if isinstance(value, date) and kind.__module__ == "datetime":
        return kind, repr(value)
    if kind.__module__ == "decimal":
        return kind, str(value)
    raise _Unknown


def _compared_instance(row: models.Model) -> Hashable:
    """Return what an instance is compared by: its primary keys, if all relations refer to these."""
    values = [row.__dict__.get(name) for name in _keys_of(type(row))]
    if not values or any(value.__class__ not in {int, str, UUID} for value in values):
        raise _Unknown
    return type(row), tuple([(value.__class__, value) for value in values]), row._state.db


@lru_cache
def _keys_of(model: type[models.Model]) -> tuple[str, ...]:
    """Return the primary keys of a model and its parents; none if a foreign key refers to another column."""
    parts = {model._meta.concrete_model or model, *model._meta.get_parent_list()}
    for part in (model, *parts):
        relations = part._meta.get_fields(include_hidden=True)
        names = {each.field_name for each in relations if isinstance(each, models.ManyToOneRel)}
        if not names <= {None, part._meta.pk.name}:
            return ()
    return tuple(sorted({part._meta.pk.attname for part in parts}))


def _forget(**_: Any) -> None:
    _begun.clear()
    _known.clear()
    _remembered.clear()
    _keys_of.cache_clear()


for _signal in (class_prepared, post_migrate, setting_changed):
    _signal.connect(_forget, dispatch_uid="ringcache:constructions")
