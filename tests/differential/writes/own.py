"""Writes by SQL, and invalidation by the project itself."""

from __future__ import annotations

from typing import Any

from django.db import connections

from cachebackend import invalidation
from tests.differential.kinds import has_triggers, is_child, kind
from tests.differential.targets import Target
from tests.differential.values import field_value
from tests.zoo.models import Song


@kind("invalidate a row")
def _(target: Target) -> None:
    invalidation.invalidate(target.get())


@kind("invalidate the model")
def _(target: Target) -> None:
    invalidation.invalidate(target.model)


def _execute(target: Target, sql: str, *arguments: Any) -> None:
    with connections[target.using].cursor() as cursor:
        cursor.execute(sql.format(table=f'"{target.model._meta.db_table}"'), arguments)


@kind("raw update", has_triggers)
def _(target: Target) -> None:
    value = field_value(target.model._meta.get_field("name"), target.step.value)
    part = Song if is_child(target) else target.model
    sql = f'UPDATE "{part._meta.db_table}" SET name = %s WHERE id = %s'
    _execute(target, sql, value, target.chosen_pk())


@kind("raw insert", lambda target: has_triggers(target) and not is_child(target))
def _(target: Target) -> None:
    value = field_value(target.model._meta.get_field("name"), target.step.value)
    _execute(target, "INSERT INTO {table} (id, name, rank) VALUES (%s, %s, 0)", target.new_pk, value)


@kind("raw delete", has_triggers)
def _(target: Target) -> None:
    key = target.model._meta.pk.column
    _execute(target, f"DELETE FROM {{table}} WHERE {key} = %s", target.chosen_pk())


@kind("raw truncate", has_triggers)
def _(target: Target) -> None:
    if not connections[target.using].in_atomic_block:  # other threads could not read until it ends
        _execute(target, "TRUNCATE {table} CASCADE")
