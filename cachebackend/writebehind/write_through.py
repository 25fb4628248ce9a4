"""Write-through: additions that the queue does not take go to the database, if the settings allow it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import InterfaceError, OperationalError, connections, router

from cachebackend.errors import (
    NodeUnavailableError,
    WriteBehindFullError,
    WriteBehindMovedError,
    WriteBehindUnknownError,
)
from cachebackend.models import ParkedWrite
from cachebackend.writebehind import reads
from cachebackend.writebehind.changes import Rows
from cachebackend.writebehind.parked import row_of
from cachebackend.writebehind.queue import project_queue

__all__ = ["is_written_through"]

#: The errors of a node that shows what it holds.
_READABLE = (WriteBehindFullError, WriteBehindMovedError)


def is_written_through(rows: Rows, error: Exception, pk: Any, changes: Mapping[str, Any]) -> bool:
    """Write to the database what was not queued, if that is allowed; return whether it was written.

    Additions may be applied in any order, but not before a queued creation, deletion or value: that
    would be drained later and would undo them. If the queue node does not answer, nothing shows what
    it holds, so the rows of the model must take updates only: values of counters are never queued.

    Args:
        rows: The rows of the model.
        error: Why the write was not queued.
        pk: The row's primary key.
        changes: The changes, as they were given.

    Raises:
        WriteBehindFullError: The queue is full, and the database cannot be reached.
        NodeUnavailableError: The queue node and the database cannot be reached.
        WriteBehindUnknownError: The database did not answer; it may have written the changes.
    """
    if not _is_allowed(rows, error, changes):
        return False
    from cachebackend.invalidation import InvalidatingQuerySet

    using = router.db_for_write(rows.model)
    was_sent = False
    try:
        connections[using].ensure_connection()
        if isinstance(error, _READABLE) and not _commutes(rows, using, pk, changes):
            return False
        was_sent = True
        return bool(InvalidatingQuerySet(rows.model, using=using).filter(pk=pk).update(**changes))
    except (OperationalError, InterfaceError) as database_error:
        if was_sent and not getattr(database_error.__cause__, "sqlstate", None):
            message = f"{error}; the database did not answer, and may have written it: {database_error}"
            raise WriteBehindUnknownError(message) from database_error
        if isinstance(error, WriteBehindFullError):
            message = f"{error}. The database {using!r} did not take it either: {database_error}"
            raise WriteBehindFullError(message) from database_error
        raise error from database_error


def _is_allowed(rows: Rows, error: Exception, changes: Mapping[str, Any]) -> bool:
    """Return whether the settings send a write that was not queued to the database."""
    options = project_queue().options
    if isinstance(error, WriteBehindFullError):
        policy = options.on_full
    elif isinstance(error, NodeUnavailableError) and not error.was_sent:
        policy = options.on_unavailable
        if not (rows.updates_only or isinstance(error, _READABLE)):
            return False
    else:
        return False
    return policy == "write_through" and rows.are_counters(changes)


def _commutes(rows: Rows, using: str, pk: Any, changes: Mapping[str, Any]) -> bool:
    """Return whether additions may be applied before what is queued and parked of a row."""
    for batch in reads.pending(rows, pk):
        puts = (name for name, kinds in batch.changes.items() if "add" not in kinds or len(kinds) > 1)
        if batch.is_created or batch.is_deleted or not changes.keys().isdisjoint(puts):
            return False
    key = rows.row(pk)[:-1].decode()
    parked = ParkedWrite.objects.using(using).filter(label=rows.model._meta.label_lower, key=key)
    return not any(row_of(write, rows.model).marker for write in parked)
