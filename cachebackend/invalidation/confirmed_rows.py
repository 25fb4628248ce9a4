"""Outbox rows whose keys every node has confirmed: writers delete them in batches.

A row that stays only makes the relay delete its keys once more. So a writer need not delete each row
after its write:

- It deletes the rows of its process together, when there are ``BATCH_ROWS`` or when the last batch is
  ``BATCH_SECONDS`` old. Rows that wait when a process stops writing are left to the relay.
- The delete does not wait for the disk, and skips rows that a relay has locked. Neither may happen to a
  statement of the program, so it has a transaction of its own: in an open transaction the rows wait for
  a later write.
- An error is logged and changes nothing: the write is committed.

Where a database cannot skip locked rows, each row is deleted at once. It cannot be locked there for long.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from threading import Lock

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from cachebackend.backend.open_transactions import is_open, roll_back_or_close
from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.outbox import delete_rows
from cachebackend.models import OutboxRow

__all__ = ["BATCH_ROWS", "BATCH_SECONDS", "delete_confirmed"]

logger = logging.getLogger("cachebackend")
#: Rows that wait at most before they are deleted.
BATCH_ROWS = 100
#: Seconds after which the next write begins another batch. It is less than the age at which the relay
#: processes a row.
BATCH_SECONDS = 0.5


class _Waiting:
    """The confirmed rows of one database that this process has not deleted yet."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._pks: list[int] = []
        self._taken = float("-inf")

    def add(self, pks: Iterable[int]) -> None:
        """Add rows."""
        with self._lock:
            self._pks += pks

    def take(self) -> Sequence[int]:
        """Return the rows of a batch that is due, which the caller must delete; else none."""
        now = SYSTEM_CLOCK.monotonic()
        with self._lock:
            if len(self._pks) < BATCH_ROWS and now - self._taken < BATCH_SECONDS:
                return ()
            pks, self._pks, self._taken = self._pks, [], now
        return pks


_waiting: defaultdict[tuple[str, str], _Waiting] = defaultdict(_Waiting)


def delete_confirmed(using: str, pks: Iterable[int | None]) -> None:
    """Delete rows whose keys every node has confirmed, now or with the rows of later writes.

    Args:
        using: The database alias. Its connection has committed the rows' transaction.
        pks: Their primary keys; None is a row that was not written.
    """
    written = [pk for pk in pks if pk is not None]
    if not written:
        return
    try:
        _delete_some(connections[using], written)
    except Exception as error:  # a wrapper of the program's statements may raise anything
        raise_interrupt(error)
        logger.debug("confirmed outbox rows are left to the relay", exc_info=True)


def _delete_some(connection: BaseDatabaseWrapper, written: Sequence[int]) -> None:
    """Delete the rows of a batch that is due, in which ``written`` may be."""
    using = connection.alias
    if not connection.features.has_select_for_update_skip_locked:
        delete_rows(using, *written)
        return
    waiting = _waiting[using, str(connection.settings_dict["NAME"])]
    waiting.add(written)
    if connection.in_atomic_block or is_open(connection) or not (due := waiting.take()):
        return
    try:
        _delete(connection, due)
    except BaseException:
        if is_open(connection):  # as after an interruption; the caller still uses the connection
            roll_back_or_close(connection)
        raise


def _delete(connection: BaseDatabaseWrapper, pks: Sequence[int]) -> None:
    """Delete the rows that are not locked, in one statement, which is a transaction of its own."""
    quote = connection.ops.quote_name
    table, pk = quote(OutboxRow._meta.db_table), quote(str(OutboxRow._meta.pk.column))
    names = ", ".join(map(str, pks))
    with connection.cursor() as cursor:
        if connection.vendor != "postgresql":
            cursor.execute(f"DELETE FROM {table} WHERE {pk} IN ({names})")
            return
        unlocked = f"SELECT {pk} FROM {table} WHERE {pk} IN ({names}) FOR UPDATE SKIP LOCKED"
        unflushed = "set_config('synchronous_commit', 'off', true) = 'off'"
        cursor.execute(f"DELETE FROM {table} WHERE {pk} IN ({unlocked}) AND {unflushed}")


def _after_fork() -> None:
    _waiting.clear()  # the parent deletes its rows itself; another thread of it may have held a lock


os.register_at_fork(after_in_child=_after_fork)
