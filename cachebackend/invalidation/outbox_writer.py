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
import threading
from concurrent.futures import Future

from django.db import Error, connections, router

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.models import OutboxRow

__all__ = ["WRITE_TIMEOUT", "OutboxWriter", "outbox_writer"]

#: Seconds that a caller waits until its row is committed.
WRITE_TIMEOUT = 5.0
#: Seconds without a row to write, after which the writer closes its connection and ends.
IDLE_TIMEOUT = 1.0


class OutboxWriter:
    """A thread with its own database connection; both exist only while rows arrive."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rows: list[OutboxRow] = []
        self._written: Future[None] = Future()
        self._thread: threading.Thread | None = None
        #: When the insert that is running began (monotonic seconds); None: none is running.
        self._insert_began: float | None = None

    def write(self, row: OutboxRow) -> Future[None]:
        """Queue a row for the next insert; return a future that is done when the row is committed.

        Raises:
            TimeoutError: The database has not answered an insert for ``WRITE_TIMEOUT`` seconds.
            RuntimeError: The process cannot start another thread.
        """
        with self._changed:
            began = self._insert_began
            if began is not None and SYSTEM_CLOCK.monotonic() - began > WRITE_TIMEOUT:
                message = f"the outbox's database has not answered for {WRITE_TIMEOUT:g} s"
                raise TimeoutError(message)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="ringcache-outbox", daemon=True)
                thread.start()
                self._thread = thread
            self._rows.append(row)
            self._changed.notify()
            return self._written

    def _run(self) -> None:
        try:
            while taken := self._take():
                rows, written = taken
                try:
                    _insert(rows)
                except Exception as error:  # noqa: BLE001  # the callers that wait log it
                    connections.close_all()
                    written.set_exception(error)
                else:
                    written.set_result(None)
        finally:
            connections.close_all()

    def _take(self) -> tuple[list[OutboxRow], Future[None]] | None:
        """Return all the rows that wait, and the future of their callers; None: the thread must end."""
        with self._changed:
            self._insert_began = None
            if not self._rows:
                self._changed.wait(IDLE_TIMEOUT)
            if not self._rows:
                self._thread = None
                return None
            taken = self._rows, self._written
            self._rows, self._written = [], Future()
            self._insert_began = SYSTEM_CLOCK.monotonic()
            return taken


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
