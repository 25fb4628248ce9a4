"""Writes outbox rows for callers that must not write themselves: their transaction may be rolled back.

1. callers     hand rows over, and wait
2. the writer  takes all that wait, and inserts them in one statement, committed at once
3. callers     go on: no crash loses their rows now. Who came during 2 is in the next one
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future

from django.db import Error, connections, router

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.models import OutboxRow

__all__ = ["KEEP_SECONDS", "OutboxWriter", "outbox_writer"]

#: Seconds that a caller waits for its row to be committed.
KEEP_SECONDS = 5.0
#: Seconds that the writer's connection is kept with nothing to write.
IDLE_SECONDS = 1.0


class OutboxWriter:
    """A thread with a connection of its own; both are there only while rows come."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rows: list[OutboxRow] = []
        self._written: Future[None] = Future()
        self._thread: threading.Thread | None = None
        #: Since when the rows that were taken last are being written; None: they are.
        self._since: float | None = None

    def write(self, row: OutboxRow) -> Future[None]:
        """Have a row committed; return what tells when it is.

        Raises:
            TimeoutError: The database has not answered for so long that nobody should wait for it.
            RuntimeError: There are as many threads as the process may have.
        """
        with self._changed:
            if self._since is not None and SYSTEM_CLOCK.monotonic() - self._since > KEEP_SECONDS:
                message = f"the outbox's database has not answered for {KEEP_SECONDS:g} s"
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
                except Exception as error:  # noqa: BLE001  # theirs to log, who wait
                    connections.close_all()
                    written.set_exception(error)
                else:
                    written.set_result(None)
        finally:
            connections.close_all()

    def _take(self) -> tuple[list[OutboxRow], Future[None]] | None:
        """Return all rows that wait, and what to tell their callers by; None: to end."""
        with self._changed:
            self._since = None
            if not self._rows:
                self._changed.wait(IDLE_SECONDS)
            if not self._rows:
                self._thread = None
                return None
            taken = self._rows, self._written
            self._rows, self._written = [], Future()
            self._since = SYSTEM_CLOCK.monotonic()
            return taken


def _insert(rows: list[OutboxRow]) -> None:
    using = router.db_for_write(OutboxRow)
    try:
        OutboxRow.objects.using(using).bulk_create(rows)
    except (
        Error
    ):  # the connection may have been cut while it was idle; a row that is there twice does no harm
        connections.close_all()
        OutboxRow.objects.using(using).bulk_create(rows)


_writer = OutboxWriter()


def outbox_writer() -> OutboxWriter:
    """Return the writer of this process."""
    return _writer


def _after_fork() -> None:
    global _writer  # noqa: PLW0603  # a forked child has the parent's locks, but not its thread
    _writer = OutboxWriter()


os.register_at_fork(after_in_child=_after_fork)
