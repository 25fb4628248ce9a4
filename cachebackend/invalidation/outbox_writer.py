"""Commits outbox rows for callers that must not use their own transaction: it may be rolled back.

1. callers     hand over their rows, and wait
2. the writer  takes all the rows that wait, and inserts them in one statement, committed at once
3. callers     continue: no crash loses their rows now. Rows that arrive during 2 are in the next
               statement

Callers and the writer share SimpleQueues and a lock, which are implemented in C. A Condition, an Event
or a Future acquires its lock in Python. If a signal handler raised there, the lock would stay acquired,
and the writer would wait for it for ever.

The writer's connection is not from the pool of the database alias (``OPTIONS["pool"]``). Callers wait
for their rows inside transactions, and their connections may be all that the pool has.
"""

from __future__ import annotations

import os
import threading
from queue import Empty, SimpleQueue

from django.db import Error, connections, router

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.models import OutboxRow

__all__ = ["OutboxWriter", "outbox_writer"]

#: Seconds without a row to write, after which the writer closes its connection and ends.
IDLE_TIMEOUT = 1.0


class Written:
    """Whether a row is committed; one caller waits for it."""

    def __init__(self) -> None:
        self._outcomes: SimpleQueue[Exception | None] = SimpleQueue()

    def set(self, error: Exception | None) -> None:
        """Record that the row is committed, or the error because of which it is not."""
        self._outcomes.put(error)

    @property
    def is_set(self) -> bool:
        """Whether the outcome is known."""
        return not self._outcomes.empty()

    def result(self, timeout: float) -> None:
        """Return when the row is committed.

        Raises:
            TimeoutError: The row was not committed within ``timeout`` seconds.
            Exception: The error because of which it could not be committed.
        """
        try:
            error = self._outcomes.get(timeout=timeout)
        except Empty:
            raise _timeout(timeout) from None
        if error is not None:
            raise error


class OutboxWriter:
    """A thread with its own database connection; both exist only while rows arrive."""

    def __init__(self) -> None:
        #: Held while a thread starts, and while it decides to end.
        self._lock = threading.Lock()
        self._rows: SimpleQueue[tuple[OutboxRow, Written]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        #: When the insert that is running began (monotonic seconds); None: none is running.
        self._insert_began: float | None = None

    def write(self, row: OutboxRow, timeout: float) -> Written:
        """Queue a row for the next insert, and return its outcome.

        Args:
            row: The row.
            timeout: The most seconds that the caller will wait for the outcome.

        Raises:
            TimeoutError: The database has not answered an insert for longer than that: no caller waits.
            RuntimeError: The process cannot start another thread.
        """
        began = self._insert_began
        if began is not None and SYSTEM_CLOCK.monotonic() - began > timeout:
            raise _timeout(timeout)
        written = Written()
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="ringcache-outbox", daemon=True)
                thread.start()
                self._thread = thread
            self._rows.put((row, written))
        return written

    def _run(self) -> None:
        try:
            while taken := self._take():
                failure: Exception | None = None
                try:
                    _insert([row for row, _ in taken])
                except Exception as error:  # noqa: BLE001  # the callers that wait log it
                    connections.close_all()
                    failure = error
                for _, written in taken:
                    written.set(failure)
        finally:
            connections.close_all()

    def _take(self) -> list[tuple[OutboxRow, Written]]:
        """Return all the rows that wait; none: the thread must end."""
        self._insert_began = None
        while not (taken := self._queued(IDLE_TIMEOUT)):
            with self._lock:
                if self._rows.empty():
                    self._thread = None
                    return []
        self._insert_began = SYSTEM_CLOCK.monotonic()
        return taken

    def _queued(self, timeout: float) -> list[tuple[OutboxRow, Written]]:
        """Return the rows in the queue; wait for the first one for ``timeout`` seconds."""
        rows: list[tuple[OutboxRow, Written]] = []
        try:
            while True:
                rows.append(self._rows.get(timeout=0.0 if rows else timeout))
        except Empty:
            return rows


def _timeout(timeout: float) -> TimeoutError:
    return TimeoutError(f"the outbox's database has not answered for {timeout:g} s")


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
