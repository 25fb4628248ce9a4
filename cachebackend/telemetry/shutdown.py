"""When a process publishes its counters and reports itself: every few seconds, and when it ends.

It also reports when it has ejected a node, or uses one again, so that no fault outlasts its cause.

======================================  =========================================================
a process that                          publishes for the last time
======================================  =========================================================
ends by itself, or by ``sys.exit``      in ``atexit``
is a child of ``multiprocessing``       in a ``Finalize``: such a child does not run ``atexit``
is a child of a Celery worker           in ``worker_process_shutdown`` (``cachebackend.tasks``)
is killed by a signal                   never: the counts of its last seconds are lost
ends by ``os._exit``                    never
======================================  =========================================================

Servers such as gunicorn and uvicorn handle SIGTERM and end by themselves. In other processes SIGTERM
keeps its default action. Python runs a handler only between two of its instructions, so with a handler
the signal would not end a process that is in one long call of C code.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing.util
import os
import queue
import threading

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.counters import Counters
from cachebackend.interrupts import raise_interrupt
from cachebackend.telemetry import this_process
from cachebackend.telemetry.processes import nodes_away, report_this_process, withdraw_this_process
from cachebackend.telemetry.publisher import publish_all

__all__ = ["connect", "publish_last"]

#: Seconds between two publications.
INTERVAL_SECONDS = 5.0
#: Seconds between two looks at the nodes, which cost nothing while none is ejected.
LOOK_SECONDS = 1.0
#: The most seconds that the end of a process waits for its last publication.
LAST_SECONDS = 2.0


class _Publisher(threading.Thread):
    """Publishes every few seconds, and once more when it is asked to end."""

    def __init__(self) -> None:
        super().__init__(name="ringcache-counts", daemon=True)
        # No Event and no join(): their locks are not reentrant, and the signal handler that ends
        # this thread may interrupt a caller that holds one of them
        self._end_requests: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._away: frozenset[tuple[str, str]] = frozenset()

    def run(self) -> None:
        """Publish until the thread is asked to end."""
        try:
            self._report()
            while not self._has_end_request():
                publish_all()
                self._report()
            publish_all()
            withdraw_this_process()
        finally:
            self._ended.put(None)

    def _report(self) -> None:
        self._away = nodes_away()  # before the report: a later change is reported again
        report_this_process()

    def _has_end_request(self) -> bool:
        """Wait until the next report is due, or the thread must end; return whether it must."""
        due = SYSTEM_CLOCK.monotonic() + INTERVAL_SECONDS
        while True:
            try:
                self._end_requests.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                if SYSTEM_CLOCK.monotonic() >= due or nodes_away() != self._away:
                    return False
            else:
                return True

    def end(self) -> None:
        """Publish for the last time, and wait for that. A signal handler may call it while it runs."""
        self._end_requests.put(None)
        with contextlib.suppress(queue.Empty):
            self._ended.get(timeout=LAST_SECONDS)
            self._ended.put(None)  # the call that this one interrupted waits for it too


_publisher: _Publisher | None = None
#: Whether the publisher could not start when a thread counted for the first time.
_is_missing = False
#: Reentrant: a signal handler may count while the thread that it interrupts starts the publisher.
_lock = threading.RLock()


def _start() -> None:
    """Start the publishing thread of this process, if there is none."""
    global _publisher, _is_missing  # noqa: PLW0603  # one for the whole process
    with _lock:
        if _publisher is not None:
            return
        if multiprocessing.parent_process() is not None:
            multiprocessing.util.Finalize(None, publish_last, exitpriority=0)
        publisher = _Publisher()
        try:
            publisher.start()
        except RuntimeError as error:  # no thread can start now; the next thread that counts tries again
            raise_interrupt(error)
            _is_missing = True
        else:
            _publisher = publisher


def publish_last() -> None:
    """Publish for the last time: the process ends."""
    if _publisher is not None:
        if _publisher.is_alive():
            _publisher.end()
    elif _is_missing:
        publish_all()


def connect() -> None:
    """Make every process publish, from the first time it counts anything, or serves a request."""
    Counters.on_thread = _start
    this_process.connect()
    atexit.register(publish_last)


def _after_fork() -> None:
    """Forget the parent's thread, which does not exist in the child, and its lock, which may be held."""
    global _publisher, _is_missing, _lock
    _publisher, _is_missing, _lock = None, False, threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
