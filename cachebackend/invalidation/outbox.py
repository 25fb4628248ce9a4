"""Deletes that are owed, in the database that owes them.

A transaction that makes keys wrong commits one row that says so, with it or not at all.
Who committed deletes the keys and drops the row. If it dies in between, or a node does not
confirm, the row stays, and the relay deletes again until every node has confirmed.

In autocommit the row comes before the statement, as an intent: nobody can put it into the
statement's own transaction. The relay keeps an intent for ``INTENT_SECONDS``, deleting its
keys all that time, so one whose statement was slow and whose process died is still acted
on after the statement's commit.

What nodes miss otherwise is owed here, too: by keys, or, of a node that missed too many or was
not there for a clear, by its place: everything that it holds of an alias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ormsgpack
from django.apps import apps
from django.db import connections, router

from cachebackend.invalidation.trigger_rows import keys_of_caught
from cachebackend.models import OutboxRow

__all__ = ["INTENT_SECONDS", "drop", "has_outbox", "keys_in", "owe", "owing"]

#: Longer than any statement is let run.
INTENT_SECONDS = 60.0
#: The vendor of what Django takes for a database where the settings name none.
NO_DATABASE = "unknown"


def has_outbox(using: str) -> bool:
    """Return whether a database has the outbox's table: the app is installed, and no router forbids it."""
    is_there = connections[using].vendor != NO_DATABASE
    return is_there and apps.is_installed("cachebackend") and router.allow_migrate_model(using, OutboxRow)


def owe(using: str, keys: Mapping[str, set[bytes]], *, is_intent: bool = False) -> int | None:
    """Write what is owed, in the open transaction if there is one; return the row's key, if it has one."""
    if not any(keys.values()) or not has_outbox(using):
        return None
    row = owing({alias: sorted(each) for alias, each in keys.items() if each}, is_intent=is_intent)
    row.save(using=using)
    return row.pk


def owing(keys: Mapping[str, Sequence[bytes]], *, node: str = "", is_intent: bool = False) -> OutboxRow:
    """Return a row, not yet saved, that owes keys by cache alias, or all that a node holds of the aliases."""
    return OutboxRow(keys=ormsgpack.packb(keys), node=node, is_intent=is_intent)


def keys_in(row: OutboxRow) -> dict[str, list[bytes]]:
    """Return the keys that a row owes, by cache alias; those of a row that names a node are not known."""
    if row.label:
        return {alias: sorted(each) for alias, each in keys_of_caught(row.label, row.rows or []).items()}
    keys: dict[str, list[bytes]] = ormsgpack.unpackb(bytes(row.keys))
    return keys


def drop(using: str, *pks: int | None) -> None:
    """Drop rows whose keys every node has confirmed."""
    if given := [pk for pk in pks if pk is not None]:
        OutboxRow.objects.using(using).filter(pk__in=given).delete()
