"""Rows that show queued writes, and why Django's ``save()`` must not write them.

    1. the row has 5 views in the database, and 2 more are queued;
    2. ``behind.get`` returns an instance with 7 views;
    3. ``save()`` of the instance writes 7 to the database;
    4. the drain adds the 2 that are queued: the database has 9.

So the instance keeps the names of the columns that had queued writes, and ``save()`` of one of
them raises. The queued value of a column that is set, not added to, would replace a saved one too.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from django.db import models
from django.db.models.signals import pre_save

from cachebackend.errors import WriteBehindRefusedError

__all__ = ["mark_queued", "refuse_saves_of_queued_columns"]

#: The key in an instance's ``__dict__``.
_MARK = "_writebehind_queued"


class _Queued(NamedTuple):
    """The columns of a row that had queued writes when it was read.

    Attributes:
        pk: The row's primary key: a copy of the instance may be saved as another row.
        names: The columns' attributes.
    """

    pk: Any
    names: frozenset[str]


def mark_queued(instance: models.Model, names: Collection[str]) -> None:
    """Record which columns of an instance show queued writes.

    Args:
        instance: The row.
        names: The columns' attributes.
    """
    if names:
        instance.__dict__[_MARK] = _Queued(instance.pk, frozenset(names))


def refuse_saves_of_queued_columns(model: type[models.Model]) -> None:
    """Make ``save()`` of a model's instances raise if it would write a column with queued writes."""
    pre_save.connect(_refuse, sender=model, dispatch_uid="ringcache:queued_columns")


def _refuse(
    instance: models.Model, *, raw: bool, update_fields: frozenset[str] | None = None, **_: Any
) -> None:
    queued: _Queued | None = instance.__dict__.get(_MARK)
    if queued is None or raw or instance.pk != queued.pk:
        return
    columns = {
        field.name
        for field in instance._meta.concrete_fields
        if field.attname in queued.names
        and (update_fields is None or not update_fields.isdisjoint({field.name, field.attname}))
    }
    if columns:
        name, names = type(instance).__name__, ", ".join(sorted(columns))
        message = (
            f"{name}.save(): the instance shows queued writes of {names}, which the drain applies as well; "
            f"write these columns with {name}.behind.update(), and the others with save(update_fields=[…])"
        )
        raise WriteBehindRefusedError(message)
