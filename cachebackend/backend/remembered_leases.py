"""The leases that a context must present: those of the gets that missed in it.

Each context has its own: a task inherits those of the code that started it, and what it adds or ends
concerns no other task. ``sync_to_async`` and ``async_to_sync`` carry them between threads and tasks.

    1. task A    get(key)           -> nothing; A must present its lease
    2. task A    loads the old row
    3. task B    UPDATE, delete(key) -> ends the leases of B, and not that of A
    4. task A    set(key, old)      -> presents the lease, and is refused

A task that has ended leaves its leases to the ASGI request that it served. So ``set`` presents the
lease of an ``aget`` that ran under ``gather`` or ``wait_for``, and the end of the request releases it.
"""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop  # returns None where current_task raises
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

from asgiref.sync import SyncToAsync, ThreadSensitiveContext

from cachebackend.blocked_threads import LeaseHolder, kept
from cachebackend.protocol import Lease

__all__ = ["Remembered", "RememberedLeases"]

#: Leases that one context may hold at once. The oldest is forgotten, and expires on its node.
_MAX_LEASES = 10_000
_NONE: Final[Mapping[bytes, Any]] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Remembered:
    """The lease of a key that missed.

    Attributes:
        lease: The lease; None: no value may be stored.
        since: The number of rollbacks in this process before the miss.
        missed_at: The time of the miss, by the monotonic clock.
        task: The task whose get missed, weakly: its context refers to the request, which must be able to go;
            None: blocking code.
        holder: The code that holds the lease.
    """

    lease: Lease
    since: int = 0
    missed_at: float = 0.0
    task: ref[asyncio.Task[Any]] | None = None
    holder: LeaseHolder | None = None


class RememberedLeases:
    """The leases of one cache object: a mapping for each context, which is replaced and never changed."""

    def __init__(self) -> None:
        self._here: ContextVar[Mapping[bytes, Remembered]] = ContextVar("remembered_leases", default=_NONE)
        #: The leases of the tasks of each ASGI request, by key; the oldest lease of a key comes first.
        self._by_request: WeakKeyDictionary[ThreadSensitiveContext, dict[bytes, list[Remembered]]] = (
            WeakKeyDictionary()
        )
        #: Whether a lease was ever remembered: only the option ``lease_on_get`` does so.
        self._is_used = False

    def __bool__(self) -> bool:
        """Return whether this context must present any lease."""
        return self._is_used and (bool(self._here.get()) or bool(self._by_request))

    def __contains__(self, key: bytes) -> bool:
        return self.find(key) is not None

    def find(self, key: bytes) -> Remembered | None:
        """Return the lease that a set of a key must present; None: it needs none."""
        if (own := self._here.get().get(key)) is not None:
            return own
        return _oldest(self._of_tasks().get(key, ()))

    def all(self) -> dict[bytes, Remembered]:
        """Return all leases of this context, by key."""
        left = {key: _oldest(of_key) for key, of_key in list(self._of_tasks().items())}
        return {key: each for key, each in left.items() if each is not None} | dict(self._here.get())

    def add(self, leases: Mapping[bytes, Lease], since: int, missed_at: float) -> None:
        """Remember the leases of keys that this context has just missed."""
        task, holder = _current_task(), LeaseHolder()
        kept.update({lease: holder for lease in leases.values() if lease is not None})
        self._put({key: Remembered(lease, since, missed_at, task, holder) for key, lease in leases.items()})

    def refuse(self, keys: Iterable[bytes]) -> None:
        """Let this context store none of the keys: it no longer has their leases."""
        held = {key: each for key in keys if (each := self.find(key)) is not None}
        self.end(held)
        self._put(
            {key: Remembered(None, each.since, each.missed_at, each.task) for key, each in held.items()}
        )

    def end(self, keys: Iterable[bytes]) -> None:
        """Forget the leases of keys: this context has written the keys itself."""
        here = dict(self._here.get())
        of_tasks = self._of_tasks()
        for key in keys:
            own = here.pop(key, None)
            if key in of_tasks:
                of_tasks[key] = [each for each in of_tasks[key] if each is not own and not _is_left(each)]
                if not of_tasks[key]:
                    del of_tasks[key]
        self._here.set(here)

    def end_where(self, is_written: Callable[[bytes], bool]) -> None:
        """Forget the leases of all keys that this context has written."""
        self.end([key for key in self.all() if is_written(key)])

    def _put(self, leases: Mapping[bytes, Remembered]) -> None:
        self._is_used = True
        here = {**self._here.get(), **leases}
        _limit(here)
        self._here.set(here)
        if (request := _request()) is not None:
            of_tasks = self._by_request.setdefault(request, {})
            for key, each in leases.items():
                if each.task is not None:
                    of_tasks.setdefault(key, []).append(each)
            _limit(of_tasks)

    def _of_tasks(self) -> dict[bytes, list[Remembered]]:
        """Return the leases of the tasks of the current ASGI request."""
        if not self._by_request or (request := _request()) is None:
            return {}
        return self._by_request.get(request, {})


def _request() -> ThreadSensitiveContext | None:
    """Return the object that Django's ASGI handler creates for each request."""
    return SyncToAsync.thread_sensitive_context.get(None)


def _current_task() -> ref[asyncio.Task[Any]] | None:
    loop = _get_running_loop()
    task = None if loop is None else asyncio.current_task(loop)
    return None if task is None else ref(task)


def _limit(leases: dict[bytes, Any]) -> None:
    while len(leases) > _MAX_LEASES:
        leases.pop(next(iter(leases)), None)


def _oldest(of_key: Iterable[Remembered]) -> Remembered | None:
    """Return the oldest of the leases of a key whose tasks have ended."""
    return min(filter(_is_left, of_key), key=lambda each: each.missed_at, default=None)


def _is_left(remembered: Remembered) -> bool:
    """Return whether the task that took a lease has ended."""
    if remembered.task is None:
        return False
    task = remembered.task()
    return task is None or task.done()
