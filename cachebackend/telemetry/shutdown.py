"""When a process publishes its counters: every few seconds, and once more when it ends.

======================================  =========================================================
a process that                          publishes for the last time
======================================  =========================================================
ends by itself, or by ``sys.exit``      in ``atexit``
is a child of ``multiprocessing``       in a ``Finalize``: such a child does not run ``atexit``
receives SIGTERM and has no handler     in our handler, which then lets the signal end it
is a child of a Celery worker           in ``worker_process_shutdown`` (``cachebackend.tasks``)
is killed, or ends by ``os._exit``      never: the counts of its last seconds are lost
======================================  =========================================================

Servers such as gunicorn and uvicorn have their own handlers, and end by themselves.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing.util
import os
import queue
import signal
import threading
from types import FrameType
from typing import Any

from cachebackend.counters import Counters
from cachebackend.telemetry.publisher import publish_all

__all__ = ["connect", "publish_last"]

#: Seconds between two publications.
INTERVAL_SECONDS = 5.0
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

    def run(self) -> None:
        """Publish until the thread is asked to end."""
        try:
            while not self._has_end_request():
                publish_all()
            publish_all()
        finally:
            self._ended.put(None)

    def _has_end_request(self) -> bool:
        try:
            self._end_requests.get(timeout=INTERVAL_SECONDS)
        except queue.Empty:
            return False
        return True

    def end(self) -> None:
        """Publish for the last time, and wait for that. A signal handler may call it while it runs."""
        self._end_requests.put(None)
        with contextlib.suppress(queue.Empty):
            self._ended.get(timeout=LAST_SECONDS)
            self._ended.put(None)  # the call that this one interrupted waits for it too


_publisher: _Publisher | None = None
_lock = threading.Lock()


def _start() -> None:
    """Start the publishing thread of this process, if there is none."""
    global _publisher  # noqa: PLW0603  # one for the whole process
    with _lock:
        if _publisher is not None:
            return
        _publisher = _Publisher()
    try:
        _publisher.start()
    except RuntimeError:  # the interpreter is ending, and no thread can start
        return
    if multiprocessing.parent_process() is not None:
        multiprocessing.util.Finalize(None, publish_last, exitpriority=0)


def publish_last(**_: Any) -> None:
    """Publish for the last time: the process ends."""
    if _publisher is not None and _publisher.is_alive():
        _publisher.end()


def _end_by_signal(number: int, _: FrameType | None) -> None:
    """Publish for the last time, then end by the signal's default action.

    Another thread publishes: the code that the signal interrupted may hold a lock.
    """
    publish_last()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def connect() -> None:
    """Make every process publish, from the first time it counts anything."""
    Counters.on_thread = _start
    atexit.register(publish_last)
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end_by_signal)


def _after_fork() -> None:
    """Forget the parent's thread, which does not exist in the child, and its lock, which may be held."""
    global _publisher, _lock
    _publisher, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
