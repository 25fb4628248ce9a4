"""Copies of values, and the placeholders that keep old ones out.

A copy is kept only if its key was not invalidated since the GET was sent:

    1. reader    puts a placeholder, sends GET
    2. node      answers: the old value
    3. writer    SET, or DEL; the node tells all trackers
    4. tracker   drops the key: its copy, and its placeholder
    5. reader    would keep the old value; its placeholder is gone, so it does not

If 4 comes before 2, the reader keeps nothing that it could have; if it comes after 5, it
drops the copy. A process's own writes drop the copy before they are sent, and again when they
are answered: what another thread read in between is not kept either.

A copy never outlives its key's time to live, which is read along with the value: a node may be
late to tell that a key expired.

A node whose tracking connection is lost can tell nothing: its copies are dropped, and none is
kept until it is back.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from cachebackend.clock import Clock
from cachebackend.options.ring import NearOptions
from cachebackend.policies import POLICIES

__all__ = ["MISS", "NearCache", "Read"]

#: In the place of a value: there is no copy.
MISS: Any = object()
#: Types whose values nobody can change, so that all may share one.
_IMMUTABLE = frozenset({bool, bytes, float, int, str, type(None)})
#: Reads that may be under way at once; beyond, a read keeps no copy.
_MOST_PLACEHOLDERS = 10_000


class Read(NamedTuple):
    """A read that is under way: the key, the node that is asked, the placeholder, and when it began."""

    key: bytes
    node: int
    ticket: object
    began: float


class _Copy(NamedTuple):
    """A copy.

    Attributes:
        value: The value, if nobody can change it.
        record: Its record, else.
        node: The node that it is of.
        until: Until when it is good, by the monotonic clock.
        size: Bytes of the key and the record.
    """

    value: Any
    record: bytes | None
    node: int
    until: float
    size: int


class NearCache:
    """The copies of one alias in one process; threads share it.

    Args:
        options: What the settings say of it.
        clock: Where time comes from.
    """

    def __init__(self, options: NearOptions, clock: Clock) -> None:
        self._max_age = options.max_age
        self._max_bytes = math.inf if options.max_bytes is None else options.max_bytes
        self._max_record_bytes = math.inf if options.max_record_bytes is None else options.max_record_bytes
        self._bytes = 0
        self._monotonic = clock.monotonic
        self._lock = threading.Lock()
        self._copies = POLICIES[options.policy](options.max_entries)
        self._placeholders: dict[bytes, object] = {}
        self._tracked: set[int] = set()
        #: Called with every read that begins.
        self.on_read: Callable[[], None] | None = None

    def get(self, key: bytes, decode: Callable[[bytes], Any]) -> Any:
        """Return a key's value, MISS if there is no copy.

        Args:
            key: The key.
            decode: Makes the value of a record that is not shared.
        """
        copy = self._copies.get(key)  # without the lock, by which those that change it are kept apart
        if copy is None:
            return MISS
        if copy.until <= self._monotonic():
            self.drop((key,))
            return MISS
        return copy.value if copy.record is None else decode(copy.record)

    def holds(self, key: bytes) -> bool:
        """Return whether there is a copy, for who only looks: to the policy that is no use of it."""
        with self._lock:
            copy = dict(self._copies.items()).get(key)
        return copy is not None and copy.until > self._monotonic()

    def begin(self, key: bytes, node: int) -> Read:
        """Put a placeholder for a read that is about to be sent; return what ``keep`` asks for."""
        if self.on_read is not None:
            self.on_read()
        read = Read(key, node, object(), self._monotonic())
        with self._lock:
            if len(self._placeholders) < _MOST_PLACEHOLDERS:
                self._placeholders[key] = read.ticket
        return read

    def keep(self, read: Read, record: bytes, value: Any, ttl: float) -> None:
        """Keep a copy of what was read, if the key was not invalidated since ``begin``.

        Args:
            read: What ``begin`` returned.
            record: The key's record.
            value: The record's value.
            ttl: Seconds that the value is good for, as the node had it; a copy is good for no
                longer. They are counted from when the read began, before the node counted.
        """
        size = len(read.key) + len(record)
        if ttl <= 0 or len(record) > self._max_record_bytes or size > self._max_bytes:
            return
        until = read.began + min(self._max_age, ttl)
        is_shared = type(value) in _IMMUTABLE
        copy = _Copy(value if is_shared else None, None if is_shared else record, read.node, until, size)
        with self._lock:
            if self._placeholders.get(read.key) is not read.ticket:
                return
            del self._placeholders[read.key]
            if read.node in self._tracked:
                self._put(read.key, copy)

    def _put(self, key: bytes, copy: _Copy) -> None:
        self._bytes += copy.size - sum(gone.size for gone in self._copies.put(key, copy))
        while self._bytes > self._max_bytes:
            self._bytes -= self._copies.evict().size

    def _drop(self, key: bytes) -> None:
        gone = self._copies.drop(key)
        if gone is not None:
            self._bytes -= gone.size

    def _clear(self) -> None:
        self._copies.clear()
        self._placeholders.clear()
        self._bytes = 0

    def forget(self, read: Read) -> None:
        """Take the placeholder of a read away that found nothing to keep."""
        with self._lock:
            if self._placeholders.get(read.key) is read.ticket:
                del self._placeholders[read.key]

    def drop(self, keys: Iterable[bytes]) -> None:
        """Drop the copies and placeholders of keys."""
        with self._lock:
            for key in keys:
                self._drop(key)
                self._placeholders.pop(key, None)

    def drop_all(self) -> None:
        """Drop everything."""
        with self._lock:
            self._clear()

    def track(self, node: int) -> None:
        """Note that a node tells what changes from now on."""
        with self._lock:
            self._placeholders.clear()  # what was asked before may have changed unnoticed
            self._tracked.add(node)

    def untrack(self, node: int) -> None:
        """Note that a node tells nothing any more, and drop all of it."""
        with self._lock:
            self._tracked.discard(node)
            self._placeholders.clear()
            for key, copy in self._copies.items():
                if copy.node == node:
                    self._drop(key)

    @property
    def tracked(self) -> frozenset[int]:
        """The nodes that tell what changes."""
        with self._lock:
            return frozenset(self._tracked)

    def after_fork(self) -> None:
        """Begin anew in a forked child: it has none of its parent's trackers."""
        self._lock = threading.Lock()
        self._clear()
        self._tracked.clear()

    @property
    def size(self) -> int:
        """Bytes of all copies' keys and records."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._copies)
