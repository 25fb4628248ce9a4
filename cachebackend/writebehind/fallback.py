"""What happens to a write that was not queued: the settings may write it through or drop it.

Only changes of ``counters`` are: additions, which may be applied in any order. Written through, they go
to the database at once. With ``on_unavailable="drop"`` they are given up: a page that counts its views
can do without the count, and cannot wait or fail. What is dropped is logged at most once a minute. Each write
that was not queued is counted by what became of it (``DrainCounts``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from django.db import Error, InterfaceError, InternalError, OperationalError, connections, router, transaction
from django.db.transaction import TransactionManagementError

from cachebackend.clock import SYSTEM_CLOCK, LogRateLimit
from cachebackend.errors import (
    NodeUnavailableError,
    RingCacheError,
    WriteBehindDamagedError,
    WriteBehindFullError,
    WriteBehindMovedError,
    WriteBehindUnknownError,
)
from cachebackend.interrupts import raise_interrupt
from cachebackend.writebehind import reads
from cachebackend.writebehind.changes import Rows
from cachebackend.writebehind.descriptions import pending_batch
from cachebackend.writebehind.parked import parked_of, row_of
from cachebackend.writebehind.queue import project_queue

__all__ = ["fall_back"]

logger = logging.getLogger("cachebackend")
_dropped_log = LogRateLimit(SYSTEM_CLOCK)
#: The errors of a node that shows what it holds.
_READABLE = (WriteBehindFullError, WriteBehindMovedError)


def fall_back(rows: Rows, error: Exception, pk: Any, changes: Mapping[str, Any] | None) -> Exception | None:
    """Write through or drop a write that was not queued, if the settings allow it, and count it.

    Args:
        rows: The rows of the model.
        error: Why the write was not queued.
        pk: The row's primary key.
        changes: The changes, as they were given; None for a creation or a deletion.

    Returns:
        None if the write was written through or dropped. Otherwise the error that the caller raises: the one
        that was given, or one of these:

        - WriteBehindFullError: The queue is full, and the database cannot be reached.
        - NodeUnavailableError: The queue node and the database cannot be reached.
        - WriteBehindUnknownError: The database did not answer; it may have written the changes.
        - django.db.Error: The database refused the changes.
    """
    cell = project_queue().counters.cell
    try:
        if changes is not None and rows.are_counters(changes):
            policy = _policy(error)
            if policy == "write_through" and _is_written_through(rows, error, pk, changes):
                cell.written_through += 1
                return None
            if policy == "drop":
                cell.dropped += 1
                _log_dropped(error)
                return None
    except (Error, RingCacheError) as own_error:
        raise_interrupt(own_error)
        error = own_error
    if isinstance(error, WriteBehindUnknownError):
        cell.unknown += 1
    else:
        cell.refused += 1
    return error


def _policy(error: Exception) -> str:
    """Return what the settings say about a write that was not queued."""
    options = project_queue().options
    if isinstance(error, WriteBehindFullError):
        return options.on_full
    if not isinstance(error, NodeUnavailableError):
        return "raise"
    # What was sent may be queued: then writing it through would double it, and dropping it would not
    return "raise" if error.was_sent and options.on_unavailable == "write_through" else options.on_unavailable


def _log_dropped(error: Exception) -> None:
    if count := _dropped_log.to_log():
        extra = {"event": "writes_dropped", "count": count, "error": str(error)}
        logger.error("write-behind: dropped %d writes of counters: %s", count, error, extra=extra)


def _is_written_through(rows: Rows, error: Exception, pk: Any, changes: Mapping[str, Any]) -> bool:
    """Write additions to the database, unless something queued would undo them; raises as ``fall_back``.

    A queued creation, deletion or value would be drained later. If the queue node does not answer,
    nothing shows what it holds, so the rows of the model must take updates only: values of counters
    are never queued.

    Inside a transaction of the caller the write is part of it: it is rolled back with it. A connection of its
    own could wait for a row that the caller has locked.
    """
    if not (rows.updates_only or isinstance(error, _READABLE)):
        return False
    from cachebackend.queries import InvalidatingQuerySet

    using = router.db_for_write(rows.model)
    was_sent = False
    try:
        connections[using].ensure_connection()
        if isinstance(error, _READABLE) and not _commutes(rows, using, pk, changes):
            return False
        was_sent = True
        with transaction.atomic(using=using):  # so that a refused statement does not break the caller's
            return bool(InvalidatingQuerySet(rows.model, using=using).filter(pk=pk).update(**changes))
    except (OperationalError, InterfaceError, InternalError, TransactionManagementError) as database_error:
        raise_interrupt(database_error)
        is_lost = isinstance(database_error, OperationalError | InterfaceError)
        if was_sent and is_lost and not getattr(database_error.__cause__, "sqlstate", None):
            message = f"{error}; the database did not answer, and may have written it: {database_error}"
            raise WriteBehindUnknownError(message) from database_error
        if isinstance(error, WriteBehindFullError):
            message = f"{error}. The database {using!r} did not take it either: {database_error}"
            raise WriteBehindFullError(message) from database_error
        raise error from database_error


def _commutes(rows: Rows, using: str, pk: Any, changes: Mapping[str, Any]) -> bool:
    """Return whether additions may be applied before what is queued and parked of a row."""
    for batch in (pending_batch(rows, each) for each in reads.pending(rows, pk)):
        puts = (name for name, kinds in batch.changes.items() if "add" not in kinds or len(kinds) > 1)
        if batch.is_created or batch.is_deleted or not changes.keys().isdisjoint(puts):
            return False
    try:
        return not any(row_of(write, rows.model).marker for write in parked_of(rows, pk, using))
    except WriteBehindDamagedError:
        return False
