"""When a process folds its counters: every few seconds, and once more at its end, however it ends.

======================================  =========================================================
a process that                          folds the last time
======================================  =========================================================
ends by itself, or by ``sys.exit``      in ``atexit``
is a child of ``multiprocessing``       in a ``Finalize``, for such a child skips ``atexit``
is sent SIGTERM, and has no handler     in ours, which then lets the signal end it
is a child of a Celery worker           in ``worker_process_shutdown`` (``cachebackend.tasks``)
is killed, or ends by ``os._exit``      never: what it counted in the last seconds is lost
======================================  =========================================================

Servers such as gunicorn and uvicorn have handlers of their own, and end by themselves.
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

#: Seconds between two folds.
EVERY_SECONDS = 5.0
#: Seconds that the end of a process may wait for its last fold.
LAST_SECONDS = 2.0


class _Publisher(threading.Thread):
    """Folds every few seconds, and a last time when it is told to end."""

    def __init__(self) -> None:
        super().__init__(name="ringcache-counts", daemon=True)
        # No Event, nor join(), whose locks are not reentrant: a signal handler that ends us may
        # interrupt just these
        self._ends: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()

    def run(self) -> None:
        """Fold until the end."""
        try:
            while not self._is_told_to_end():
                publish_all()
            publish_all()
        finally:
            self._ended.put(None)

    def _is_told_to_end(self) -> bool:
        try:
            self._ends.get(timeout=EVERY_SECONDS)
        except queue.Empty:
            return False
        return True

    def end(self) -> None:
        """Have it fold a last time, and wait for that. May interrupt itself."""
        self._ends.put(None)
        with contextlib.suppress(queue.Empty):
            self._ended.get(timeout=LAST_SECONDS)
            self._ended.put(None)  # whom we interrupted waits for it too


_publisher: _Publisher | None = None
_lock = threading.Lock()


def _begin() -> None:
    """Start this process's folder, if it has none."""
    global _publisher  # noqa: PLW0603  # one for the whole process
    with _lock:
        if _publisher is not None:
            return
        _publisher = _Publisher()
    try:
        _publisher.start()
    except RuntimeError:  # the interpreter is about to end, and so does what was to be folded
        return
    if multiprocessing.parent_process() is not None:
        multiprocessing.util.Finalize(None, publish_last, exitpriority=0)


def publish_last(**_: Any) -> None:
    """Fold what is left: the process ends."""
    if _publisher is not None and _publisher.is_alive():
        _publisher.end()


def _end_by_signal(number: int, _: FrameType | None) -> None:
    """Fold, by another thread, for the interrupted one may hold a lock; then end as the signal has it."""
    publish_last()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def connect() -> None:
    """Have every process that counts fold."""
    Counters.on_thread = _begin
    atexit.register(publish_last)
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end_by_signal)


def _after_fork() -> None:
    """Begin anew in a forked child: the parent's thread is not there, and another may have held the lock."""
    global _publisher, _lock
    _publisher, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
