"""The copies of one process, and the placeholders that prevent copies of old values.

A copy is stored only if its key was not invalidated since the GET was sent:

    1. reader    adds a placeholder for the key, and sends GET
    2. node      replies with the old value
    3. writer    sends SET or DEL; the node sends an invalidation message to all tracking connections
    4. tracker   receives the message, and drops the key's copy and its placeholder
    5. reader    has the old value, but its placeholder is gone, so it stores no copy

If 4 happens before 2, the reader stores no copy although it could. If 4 happens after 5, the message
drops the copy. A process drops the copies of the keys that it writes itself twice: before it sends the
write, and when the reply has arrived. So a copy that another thread reads in between is dropped too.

A copy is used no longer than its key's TTL, which is read together with the value, because a node may
send the message for an expired key late.

A node whose tracking connection is lost cannot send messages. So its copies are not used any more, and
no copies are stored until the connection is open again. They are not looked for, because that would stop
all readers for a second if there are a million copies: each copy refers to the connection that it depends
on, and is dropped when it is read, or evicted.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from cachebackend.clock import Clock
from cachebackend.loader import in_loader, running
from cachebackend.options.ring import NearOptions
from cachebackend.policies import POLICIES, Policy

__all__ = ["MISS", "NearCache", "Read"]

#: Returned instead of a value if there is no copy.
MISS: Any = object()
#: Types of immutable values: all callers may share one object.
_IMMUTABLE = frozenset({bool, bytes, float, int, str, type(None)})
#: The times at which copies expire, in a second: copies that expire at one time share the object, which
#: would be a tenth of the memory of a short one.
_TICKS = 16
#: The most placeholders at one time; a read beyond them replaces the oldest one, whose read stores no copy.
#: A placeholder that an interrupted reader left behind is therefore replaced some time.
_MAX_PLACEHOLDERS = 10_000


class Read(NamedTuple):
    """A read in flight.

    Attributes:
        key: The key.
        node: The index of the node whose tracking connection a copy depends on.
        placeholder: The object that must still be the key's placeholder when the reply arrives.
        began: When it began, by the monotonic clock.
    """

    key: bytes
    node: int
    placeholder: object
    began: float


class _Tracking:
    """An open tracking connection of a node; ``is_lost`` says that it is not open any more."""

    __slots__ = ("is_lost",)

    def __init__(self) -> None:
        self.is_lost = False


class _Copy(NamedTuple):
    """A copy.

    Attributes:
        value: The value, if it is immutable.
        record: The record, if the value is not immutable: each hit decodes it.
        tracking: The connection that invalidates it.
        until: When it expires, by the monotonic clock.
        size: Bytes of the key and the record.
    """

    value: Any
    record: bytes | None
    tracking: _Tracking
    until: float
    size: int


class NearCache:
    """The copies of one alias in one process; threads share it.

    Args:
        options: The settings of the near cache.
        clock: The source of time.
    """

    def __init__(self, options: NearOptions, clock: Clock) -> None:
        self._max_age = options.max_age
        self._max_bytes = math.inf if options.max_bytes is None else options.max_bytes
        self._max_record_bytes = math.inf if options.max_record_bytes is None else options.max_record_bytes
        self._bytes = 0
        self._last_until = 0.0
        self._monotonic = clock.monotonic
        self._lock = threading.Lock()
        self._make_copies: Callable[[], Policy[bytes, _Copy]] = partial(
            POLICIES[options.policy], options.max_entries
        )
        self._copies = self._make_copies()
        self._placeholders: OrderedDict[bytes, object] = OrderedDict()  # the oldest one first
        self._trackings: dict[int, _Tracking] = {}
        #: Whether all copies depend on one tracking connection, that of node 0, which stands for all nodes.
        self.has_one_source = False
        #: Called at the beginning of every read.
        self.on_read: Callable[[], None] | None = None

    def get(self, key: bytes, decode: Callable[[bytes, bytes], Any]) -> Any:
        """Return the value of a key's copy; MISS if there is no copy, or a loader asks.

        Args:
            key: The key.
            decode: Returns the value of a record of a key, for values that are not immutable.
        """
        copy = self._copies.get(key)  # without the lock, which only threads that change copies need
        if copy is None or (running and in_loader()):
            return MISS
        if copy.tracking.is_lost or copy.until <= self._monotonic():
            self.drop((key,))
            return MISS
        return copy.value if copy.record is None else decode(copy.record, key)

    def has_copy(self, key: bytes) -> bool:
        """Return whether a copy is cached, without counting it as an access."""
        copy = self._copies.peek(key)
        return copy is not None and not copy.tracking.is_lost and copy.until > self._monotonic()

    def begin(self, key: bytes, node: int) -> Read:
        """Add a placeholder before a read is sent; return the read, for ``keep`` or ``forget``."""
        if self.on_read is not None:
            self.on_read()
        source = 0 if self.has_one_source else node
        read = Read(key, source, object(), self._monotonic())
        with self._lock:
            self._placeholders.pop(key, None)
            if len(self._placeholders) >= _MAX_PLACEHOLDERS:
                self._placeholders.popitem(last=False)
            self._placeholders[key] = read.placeholder
        return read

    def keep(self, read: Read, record: bytes, value: Any, ttl: float) -> None:
        """Store a copy of a value that was read, if its key was not invalidated since ``begin``.

        Args:
            read: The read that ``begin`` returned.
            record: The key's record.
            value: The record's value.
            ttl: The key's TTL in seconds, as the node returned it. The copy expires this long after
                the read began, so before the key does.
        """
        size = len(read.key) + len(record)
        if ttl <= 0 or len(record) > self._max_record_bytes or size > self._max_bytes:
            return
        until = self._shared_until(read.began + min(self._max_age, ttl))
        is_shared = type(value) in _IMMUTABLE
        with self._lock:
            if self._placeholders.get(read.key) is not read.placeholder:
                return
            del self._placeholders[read.key]
            tracking = self._trackings.get(read.node)
            if tracking is not None:
                shown, stored = (value, None) if is_shared else (None, record)
                self._put(read.key, _Copy(shown, stored, tracking, until, size))

    def _shared_until(self, until: float) -> float:
        """Return a time rounded down, as the object that the last copy has, if it is the same time."""
        rounded = math.floor(until * _TICKS) / _TICKS
        if rounded != self._last_until:
            self._last_until = rounded
        return self._last_until

    def _put(self, key: bytes, copy: _Copy) -> None:
        self._bytes += copy.size - sum(removed.size for removed in self._copies.put(key, copy))
        while self._bytes > self._max_bytes:
            self._bytes -= self._copies.evict().size

    def _drop(self, key: bytes) -> None:
        copy = self._copies.drop(key)
        if copy is not None:
            self._bytes -= copy.size

    def _clear(self) -> None:
        self._copies = self._make_copies()
        self._placeholders.clear()
        self._bytes = 0

    def forget(self, read: Read) -> None:
        """Remove the placeholder of a read that stores no copy."""
        with self._lock:
            if self._placeholders.get(read.key) is read.placeholder:
                del self._placeholders[read.key]

    def drop(self, keys: Iterable[bytes]) -> None:
        """Drop the copies and the placeholders of keys."""
        with self._lock:
            for key in keys:
                self._drop(key)
                self._placeholders.pop(key, None)

    def drop_all(self) -> None:
        """Drop all copies and placeholders."""
        copies = self._copies  # freed at the end, without the lock: it may take long
        with self._lock:
            self._clear()
        del copies

    def tracking_opened(self, node: int) -> None:
        """Handle an open tracking connection: values read from this node may be copied from now on."""
        with self._lock:
            self._placeholders.clear()  # the keys of reads in flight may have changed without a message
            self._trackings.setdefault(node, _Tracking())

    def tracking_lost(self, node: int) -> None:
        """Handle a lost tracking connection: no copy read from this node is used any more."""
        with self._lock:
            tracking = self._trackings.pop(node, None)
            if tracking is not None:
                tracking.is_lost = True
            self._placeholders.clear()

    @property
    def tracked_nodes(self) -> frozenset[int]:
        """The indexes of the nodes whose tracking connection is open."""
        with self._lock:
            return frozenset(self._trackings)

    def after_fork(self) -> None:
        """Drop everything in a forked child: it does not have its parent's tracking connections."""
        self._lock = threading.Lock()
        self._clear()
        self._trackings.clear()

    @property
    def size(self) -> int:
        """Bytes that the keys and records of all copies have together, also of those that are not used."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._copies)
