"""Commits outbox rows for callers that must not use their own transaction: it may be rolled back.

1. callers     hand over their rows, and wait
2. the writer  takes all the rows that wait, and inserts them in one statement, committed at once
3. callers     continue: no crash loses their rows now. Rows that arrive during 2 are in the next
               statement

The writer's connection is not from the pool of the database alias (``OPTIONS["pool"]``). Callers wait
for their rows inside transactions, and their connections may be all that the pool has.
"""

from __future__ import annotations

import os

from django.db import Error, connections, router

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.invalidation.own_thread import Outcome, OwnThread
from cachebackend.models import OutboxRow

__all__ = ["OutboxWriter", "outbox_writer"]

#: Seconds without a row to write, after which the writer closes its connection and ends.
IDLE_TIMEOUT = 1.0


class OutboxWriter:
    """A thread that inserts rows."""

    def __init__(self) -> None:
        self._thread = OwnThread("ringcache-outbox", self._write, IDLE_TIMEOUT)

    def write(self, row: OutboxRow, timeout: float) -> Outcome[None]:
        """Queue a row for the next insert; return an outcome, which is set when the row is committed.

        Args:
            row: The row.
            timeout: The most seconds that the caller will wait for the outcome.

        Raises:
            TimeoutError: The database has not answered an insert for longer than that: no caller waits.
            RuntimeError: The process cannot start another thread.
        """
        began = self._thread.began
        if began is not None and SYSTEM_CLOCK.monotonic() - began > timeout:
            message = f"the outbox's database has not answered for {timeout:g} s"
            raise TimeoutError(message)
        written: Outcome[None] = Outcome()
        self._thread.put((row, written))
        return written

    def _write(self, items: list[tuple[OutboxRow, Outcome[None]]]) -> None:
        try:
            _insert([row for row, _ in items])
        except Exception as error:  # noqa: BLE001  # the callers that wait log it
            connections.close_all()
            for _, written in items:
                written.fail(error)
        else:
            for _, written in items:
                written.set(None)


def _insert(rows: list[OutboxRow]) -> None:
    using = router.db_for_write(OutboxRow)
    _leave_pool(using)
    try:
        OutboxRow.objects.using(using).bulk_create(rows)
    except Error:
        # The server may have closed the idle connection. If the first insert was committed all the
        # same, the rows exist twice, which does no harm
        connections.close_all()
        OutboxRow.objects.using(using).bulk_create(rows)


def _leave_pool(using: str) -> None:
    """Give the calling thread a connection of its own, if those of the database alias are from a pool."""
    settings = connections[using].settings_dict
    if "pool" in settings["OPTIONS"]:
        options = {name: value for name, value in settings["OPTIONS"].items() if name != "pool"}
        connection = connections.create_connection(using)
        connection.settings_dict = settings | {"OPTIONS": options}
        connections[using] = connection


_writer = OutboxWriter()


def outbox_writer() -> OutboxWriter:
    """Return the writer of this process."""
    return _writer


def _after_fork() -> None:
    global _writer  # noqa: PLW0603  # a forked child has the parent's locks, but not its thread
    _writer = OutboxWriter()


os.register_at_fork(after_in_child=_after_fork)
