"""Outbox rows that are set aside: they cannot be read, and what they can mean is deleted.

One such row for each model, and one for the rows without a model, remain with their error until a
person deletes them. Further rows of the same kind are deleted, so that a trigger which was forgotten in
the database does not fill the outbox.

The row of a model that this process does not know also means everything that is cached of the model,
to a process that knows it. It stands for a further row only while this process has it locked:

    1. relay of the newer release    locks the row, deletes what is cached of the model
    2. a program                     changes the model's table: a further row
    3. relay of the older release    must not delete the further row because of the first one
    4. relay of the newer release    deletes the first row
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db import connections

from cachebackend.invalidation.outbox_keys import UNKNOWN_MODEL
from cachebackend.invalidation.outbox_table import has_outbox
from cachebackend.models import OutboxRow

__all__ = ["delete_set_aside", "set_aside", "set_aside_errors", "set_aside_since"]

#: The most characters of an error that are stored.
_ERROR_CHARACTERS = OutboxRow._meta.get_field("error").max_length or 0
#: The most rows that are shown.
_MAX_SHOWN = 20


def set_aside(using: str, unreadable: Iterable[tuple[Any, str]]) -> set[int]:
    """Set rows aside, in the open transaction; return the keys of those that another one stands for.

    Args:
        using: The database alias.
        unreadable: Rows whose deletes every node has confirmed, each with its error.
    """
    covered: set[int] = set()
    locked: dict[tuple[str, bool], bool] = {}
    for row, error in unreadable:
        kind = row.label, error == UNKNOWN_MODEL
        if kind not in locked:
            locked[kind] = _locks_one(using, *kind)
        if locked[kind]:
            covered.add(row.pk)
            continue
        changed: dict[str, Any] = {"error": error.replace("\0", "")[:_ERROR_CHARACTERS]}
        if error == UNKNOWN_MODEL:
            changed["rows"] = None  # everything of the model
        OutboxRow.objects.using(using).filter(pk=row.pk).update(**changed)
        locked[kind] = True
    return covered


def _locks_one(using: str, label: str, is_unknown: bool) -> bool:  # a pair, as above
    """Lock a row that is set aside already; return whether there is one."""
    rows = OutboxRow.objects.using(using).filter(label=label).exclude(error="")
    rows = rows.filter(error=UNKNOWN_MODEL) if is_unknown else rows.exclude(error=UNKNOWN_MODEL)
    skips = connections[using].features.has_select_for_update_skip_locked
    return bool(rows.select_for_update(skip_locked=skips).values_list("pk", flat=True)[:1])


def set_aside_errors(using: str) -> list[str]:
    """Return what the first rows are that are set aside in a database, each with its error."""
    found = OutboxRow.objects.using(using).exclude(error="").order_by("pk")
    return [
        f"{f'a change of {label}' if label else 'deletes of keys'} ({error})"
        for label, error in found.values_list("label", "error")[:_MAX_SHOWN]
    ]


def set_aside_since(using: str) -> float | None:
    """Return when the oldest row that is set aside was stored, in seconds since 1970; None if none is."""
    rows = OutboxRow.objects.using(using).exclude(error="").order_by("created")
    first = rows.values_list("created", flat=True).first()
    return None if first is None else first.timestamp()


def delete_set_aside(using: str) -> int:
    """Delete the rows that are set aside in a database; return how many there were."""
    return OutboxRow.objects.using(using).exclude(error="").delete()[0] if has_outbox(using) else 0
