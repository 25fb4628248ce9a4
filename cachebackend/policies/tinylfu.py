"""W-TinyLFU: admits a new key only if it was requested more often than the entry it would replace.

New keys enter a window, an LRU queue. A key that leaves the window is admitted to the main part only
if it was requested more often lately than the entry that would be evicted for it; a frequency sketch
estimates both. The main part is two LRU queues: a key enters probation, and the protected queue when
it is accessed again. The size of the window is found by hill climbing: after each period the window
grows or shrinks by a step, and the next step goes the other way if the hit ratio fell.

A ``get`` only appends its key to a buffer; the next ``put`` moves the keys of the buffer in their
queues. The buffer forgets the oldest keys when it is full. So a hit takes no lock.

Sources: Einziger, Friedman and Manes, "TinyLFU", ACM Transactions on Storage 13(4), 2017;
Einziger et al., "Adaptive Software Cache Management", Middleware '18, for the window.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from typing import ClassVar, Generic, TypeVar

__all__ = ["TinyLFU"]

K = TypeVar("K")
V = TypeVar("V")
#: The window's first share of all entries.
WINDOW_SHARE = 0.01
#: The protected queue's share of the main part.
PROTECTED_SHARE = 0.8
#: Accesses that the buffer holds until the next ``put``.
MAX_BUFFERED = 1024
#: A period ends after this many requests for each entry of the capacity.
PERIOD = 10
#: The first step of the hill climbing, as a share of all entries.
STEP_SHARE = 0.0625
#: Each step is this share of the one before.
STEP_DECAY = 0.98
#: If the hit ratio changes by this much in a period, the workload has changed: steps are large again.
RESTART = 0.05
#: A counter of the sketch stops here.
MAX_COUNT = 15
#: All counters are halved after this many requests for each entry of the capacity.
SAMPLE = 10
#: Odd numbers that hash a key to one counter of each row.
_SEEDS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
_MASK = (1 << 64) - 1


class _Sketch:
    """Estimates how often a key was requested lately, and never too low: a count-min sketch that ages.

    Args:
        capacity: The most entries of the policy.
    """

    def __init__(self, capacity: int) -> None:
        self._bits = max(6, (4 * capacity - 1).bit_length())
        self._rows = [array("B", bytes(1 << self._bits)) for _ in _SEEDS]
        self._sample, self._requests = SAMPLE * capacity, 0

    def _indexes(self, key: object) -> list[int]:
        mixed = hash(key) & _MASK
        return [((mixed ^ (mixed >> 31)) * seed & _MASK) >> (64 - self._bits) for seed in _SEEDS]

    def add(self, key: object) -> None:
        """Count a request for a key."""
        indexes = self._indexes(key)
        least = min(row[index] for row, index in zip(self._rows, indexes, strict=True))
        if least < MAX_COUNT:
            for row, index in zip(self._rows, indexes, strict=True):
                if row[index] == least:
                    row[index] += 1
        self._requests += 1
        if self._requests >= self._sample:
            self._requests //= 2
            self._rows = [array("B", [count >> 1 for count in row]) for row in self._rows]

    def count(self, key: object) -> int:
        """Return the estimated number of requests for a key."""
        return min(row[index] for row, index in zip(self._rows, self._indexes(key), strict=True))


class TinyLFU(Generic[K, V]):
    """At most ``capacity`` entries, in a window and a main part.

    Args:
        capacity: The most entries.
    """

    title: ClassVar[str] = "W-TinyLFU"

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._window_capacity = max(1, int(capacity * WINDOW_SHARE))
        self._entries: dict[K, V] = {}
        self._window: OrderedDict[K, None] = OrderedDict()
        self._probation: OrderedDict[K, None] = OrderedDict()
        self._protected: OrderedDict[K, None] = OrderedDict()
        self._sketch = _Sketch(capacity)
        self._buffer: deque[K] = deque(maxlen=MAX_BUFFERED)
        self._hits = self._misses = 0
        self._ratio, self._step = 0.0, STEP_SHARE * capacity

    def get(self, key: K) -> V | None:
        """Return a key's entry and count an access; None if there is none."""
        entry = self._entries.get(key)
        if entry is not None:
            self._buffer.append(key)
        return entry

    def peek(self, key: K) -> V | None:
        """Return a key's entry without counting an access; None if there is none."""
        return self._entries.get(key)

    def put(self, key: K, entry: V) -> list[V]:
        """Store an entry; return the entries removed: the key's previous one, and those evicted."""
        self._apply_accesses()
        self._misses += 1
        self._sketch.add(key)
        if key in self._entries:
            removed, self._entries[key] = [self._entries[key]], entry
            return removed
        self._entries[key] = entry
        self._window[key] = None
        removed = self._admit()
        if self._hits + self._misses >= PERIOD * self._capacity:
            self._resize_window()
        return removed

    def evict(self) -> V:
        """Remove the entry that the policy chooses, and return it; there must be one."""
        # A share of the entries stored now, not of the capacity: a caller that also limits bytes
        # evicts long before there are `capacity` entries
        window_limit = max(1, len(self._entries) * self._window_capacity // self._capacity)
        moved = []
        while len(self._window) > window_limit:
            moved.append(self._window.popitem(last=False)[0])
            self._probation[moved[-1]] = None
        victim = next(iter(self._probation or self._protected or self._window))
        loser = self._loser(moved[-1], victim) if moved else victim
        evicted = self._entries[loser]
        self.drop(loser)
        return evicted

    def drop(self, key: K) -> V | None:
        """Remove a key's entry and return it; None if there is none. The sketch still counts the key."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            for queue in (self._window, self._probation, self._protected):
                queue.pop(key, None)
        return entry

    def clear(self) -> None:
        """Remove all entries."""
        for queue in (self._entries, self._window, self._probation, self._protected):
            queue.clear()
        self._buffer.clear()

    def items(self) -> list[tuple[K, V]]:
        """Return a copy of all keys and entries, without counting accesses."""
        return list(self._entries.items())

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def _main_capacity(self) -> int:
        return self._capacity - self._window_capacity

    def _apply_accesses(self) -> None:
        while self._buffer:
            key = self._buffer.popleft()
            self._hits += 1
            self._sketch.add(key)
            if key in self._window:
                self._window.move_to_end(key)
            elif key in self._protected:
                self._protected.move_to_end(key)
            elif key in self._probation:
                del self._probation[key]
                self._protected[key] = None
                self._demote()

    def _demote(self) -> None:
        while len(self._protected) > int(self._main_capacity * PROTECTED_SHARE):
            key, _ = self._protected.popitem(last=False)
            self._probation[key] = None

    def _admit(self) -> list[V]:
        """Move keys from a window that is too long to the main part, and return the entries evicted there."""
        evicted = []
        while len(self._window) > self._window_capacity:
            candidate, _ = self._window.popitem(last=False)
            self._probation[candidate] = None
            if len(self._probation) + len(self._protected) <= self._main_capacity:
                continue
            victim = next(iter(self._probation if len(self._probation) > 1 else self._protected), candidate)
            loser = self._loser(candidate, victim)
            evicted.append(self._entries[loser])
            self.drop(loser)
        return evicted

    def _loser(self, candidate: K, victim: K) -> K:
        return candidate if self._sketch.count(candidate) <= self._sketch.count(victim) else victim

    def _resize_window(self) -> None:
        """Change the size of the window by a step; turn round if the last step lowered the hit ratio."""
        ratio = self._hits / (self._hits + self._misses)
        change = ratio - self._ratio
        if change < 0:
            self._step = -self._step
        self._step = (
            (STEP_SHARE * self._capacity if self._step > 0 else -STEP_SHARE * self._capacity)
            if abs(change) >= RESTART
            else self._step * STEP_DECAY
        )
        self._ratio, self._hits, self._misses = ratio, 0, 0
        resized = self._window_capacity + round(self._step)
        self._window_capacity = min(max(1, resized), max(1, int(self._capacity * PROTECTED_SHARE)))
        self._demote()
        while len(self._probation) + len(self._protected) > self._main_capacity:
            queue = self._probation or self._protected
            key, _ = queue.popitem(last=False)
            self._window[key] = None
            self._window.move_to_end(key, last=False)
        while len(self._window) > self._window_capacity and self._main_capacity > len(self._probation) + len(
            self._protected
        ):
            key, _ = self._window.popitem(last=False)
            self._probation[key] = None
