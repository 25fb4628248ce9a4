"""Writes by SQL, and invalidation by the project itself."""

from __future__ import annotations

from typing import Any

from django.db import connections

from cachebackend import invalidation
from tests.differential.kinds import has_triggers, is_child, is_tag, kind, may_be_unreadable
from tests.differential.targets import Target
from tests.differential.values import field_value
from tests.zoo.models import Song


@kind("invalidate a row", is_tag)
def _(target: Target) -> None:
    invalidation.invalidate(target.get())


@kind("invalidate the model")
def _(target: Target) -> None:
    invalidation.invalidate(target.model)


def _execute(target: Target, sql: str, *arguments: Any) -> None:
    with connections[target.using].cursor() as cursor:
        cursor.execute(sql.format(table=f'"{target.model._meta.db_table}"'), arguments)


def _stored(target: Target, pk: Any) -> Any:
    """Return a primary key as its column holds it."""
    return target.model._meta.pk.get_db_prep_value(pk, connections[target.using])


@kind("raw update", has_triggers)
def _(target: Target) -> None:
    value = field_value(target.model._meta.get_field("name"), target.step.value)
    part = Song if is_child(target) else target.model
    sql = f'UPDATE "{part._meta.db_table}" SET name = %s WHERE {part._meta.pk.column} = %s'
    _execute(target, sql, value, _stored(target, target.chosen_pk()))


@kind("raw insert", lambda target: has_triggers(target) and not is_child(target))
def _(target: Target) -> None:
    value = field_value(target.model._meta.get_field("name"), target.step.value)
    sql = f"INSERT INTO {{table}} ({target.model._meta.pk.column}, name, rank) VALUES (%s, %s, 0)"
    _execute(target, sql, _stored(target, target.new_pk), value)


@kind("raw delete", has_triggers)
def _(target: Target) -> None:
    key = target.model._meta.pk.column
    _execute(target, f"DELETE FROM {{table}} WHERE {key} = %s", _stored(target, target.chosen_pk()))


#: Values that Python cannot read, or reads as another value than the one that the database compares.
_UNREADABLE = (
    ("at", "infinity"), ("at", "0044-03-15 BC"), ("day", "-infinity"), ("day", "20000-01-01"),
    ("amount", "NaN"), ("length", "1 year"),
)  # fmt: skip


@kind("raw update by unreadable values", may_be_unreadable)
def _(target: Target) -> None:
    """Set a column to such a value, and then to another: Django cannot read the row in between."""
    name, value = _UNREADABLE[target.step.other % len(_UNREADABLE)]
    pk, new = target.chosen_pk(), field_value(target.model._meta.get_field(name), target.step.value)
    _execute(target, f"UPDATE {{table}} SET rank = rank + 1, {name} = %s WHERE id = %s", value, pk)
    _execute(target, f"UPDATE {{table}} SET {name} = %s WHERE id = %s", new, pk)


@kind("raw truncate", has_triggers)
def _(target: Target) -> None:
    if not connections[target.using].in_atomic_block:  # other threads could not read until it ends
        _execute(target, "TRUNCATE {table} CASCADE")
