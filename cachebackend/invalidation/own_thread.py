"""A thread with database connections of its own, for work that must not use those of the caller.

Caller and thread share SimpleQueues and a lock, which are implemented in C. A Condition, an Event or a
Future acquires its lock in Python. If a signal handler raised there, the lock would stay acquired, and
the thread would wait for it for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from django.db import connections

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.threads import start_thread

__all__ = ["Outcome", "OwnThread"]

T = TypeVar("T")


class Outcome(Generic[T]):
    """What the thread returns to one caller: a result or an error.

    Attributes:
        is_awaited: Whether the caller may still ask for it.
    """

    def __init__(self) -> None:
        self.is_awaited = True
        self._outcomes: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def set(self, result: T) -> None:
        """Record the result."""
        self._outcomes.put((result, None))

    def fail(self, error: BaseException) -> None:
        """Record the error because of which there is no result."""
        self._outcomes.put((None, error))

    @property
    def is_set(self) -> bool:
        """Whether there is an outcome that ``result`` has not returned."""
        return not self._outcomes.empty()

    def result(self, timeout: float) -> T:
        """Return the result as soon as there is one; only one call gets it.

        Raises:
            TimeoutError: There was no outcome within ``timeout`` seconds.
            BaseException: The error because of which there is no result.
        """
        try:
            result, error = self._outcomes.get(timeout=timeout)
        except Empty:
            message = f"no answer within {timeout:g} s"
            raise TimeoutError(message) from None
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # without an error there is a result


class OwnThread(Generic[T]):
    """A thread that handles items, and its database connections; both exist only while items arrive.

    Args:
        name: The thread's name.
        handle: Is called with all the items that wait. It raises nothing.
        idle_seconds: Seconds without an item after which the thread closes its connections and ends.
            Postgres waits 5 s for connections to end before it refuses to drop a test database.
    """

    def __init__(self, name: str, handle: Callable[[list[T]], None], idle_seconds: float) -> None:
        self._name, self._handle, self._idle_seconds = name, handle, idle_seconds
        #: Held while a thread starts, and while it decides to end.
        self._lock = threading.Lock()
        self._items: SimpleQueue[T] = SimpleQueue()
        self._thread: threading.Thread | None = None
        #: When the call of ``handle`` that is running began (monotonic seconds); None: none is running.
        self.began: float | None = None

    def put(self, item: T) -> None:
        """Give the thread an item; start the thread if it does not run.

        Raises:
            RuntimeError: The process cannot start another thread.
        """
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                # Assigned first: it may run although a signal handler raises in ``start``
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                start_thread(self._thread)
            self._items.put(item)

    def _run(self) -> None:
        try:
            while items := self._take():
                self._handle(items)
        finally:
            connections.close_all()

    def _take(self) -> list[T]:
        """Return all the items that wait; none: the thread must end."""
        self.began = None
        while not (items := self._queued()):
            with self._lock:
                if self._items.empty():
                    self._thread = None
                    return []
        self.began = SYSTEM_CLOCK.monotonic()
        return items

    def _queued(self) -> list[T]:
        """Return the items in the queue; wait for the first one for ``idle_seconds``."""
        items: list[T] = []
        try:
            while True:
                items.append(self._items.get(timeout=0.0 if items else self._idle_seconds))
        except Empty:
            return items
