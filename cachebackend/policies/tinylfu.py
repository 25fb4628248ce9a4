"""W-TinyLFU: a new key must have been asked for more often than the one that it would push out.

New keys come to a window, where the least recently used goes first. What leaves it is let into
the main part only if a sketch of how often keys were asked for lately ranks it above the entry
that would go. The main part is two queues: on probation, and protected once used again. How
large the window is, is found by climbing: after each period it is made larger or smaller, and
turned back if fewer requests were hits.

A use is only noted; what it changes is done with the next ``put``, and if too many are noted
before that, the oldest are forgotten. So a hit takes no lock.

Sources: Einziger, Friedman and Manes, "TinyLFU", ACM Transactions on Storage 13(4), 2017;
Einziger et al., "Adaptive Software Cache Management", Middleware '18, for the window.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from typing import Generic, TypeVar

__all__ = ["TinyLFU"]

K = TypeVar("K")
V = TypeVar("V")
#: The window's share of all entries at first, and the protected share of the main part.
WINDOW_SHARE, PROTECTED_SHARE = 0.01, 0.8
#: Uses that are noted at most before they are acted on.
MOST_NOTED = 1024
#: Requests of a period, for each entry; the first step of the climb, as a share of all entries; and
#: what remains of a step when it is taken again.
PERIOD, STEP_SHARE, STEP_DECAY = 10, 0.0625, 0.98
#: A change of the hit ratio by so much says that the work is another: the climb begins anew.
RESTART = 0.05
#: The sketch counts up to this, and all is halved after so many counts for each entry.
MOST_COUNTED, SAMPLE = 15, 10
_SEEDS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
_MASK = (1 << 64) - 1


class _Sketch:
    """How often keys were asked for lately, at least: a count-min sketch that ages."""

    def __init__(self, capacity: int) -> None:
        self._bits = max(6, (4 * capacity - 1).bit_length())
        self._rows = [array("B", bytes(1 << self._bits)) for _ in _SEEDS]
        self._sample, self._counted = SAMPLE * capacity, 0

    def _places(self, key: object) -> list[int]:
        mixed = hash(key) & _MASK
        return [((mixed ^ (mixed >> 31)) * seed & _MASK) >> (64 - self._bits) for seed in _SEEDS]

    def add(self, key: object) -> None:
        """Count a key once more."""
        places = self._places(key)
        least = min(row[at] for row, at in zip(self._rows, places, strict=True))
        if least < MOST_COUNTED:
            for row, at in zip(self._rows, places, strict=True):
                if row[at] == least:
                    row[at] += 1
        self._counted += 1
        if self._counted >= self._sample:
            self._counted //= 2
            self._rows = [array("B", [each >> 1 for each in row]) for row in self._rows]

    def count(self, key: object) -> int:
        """Return how often a key was counted."""
        return min(row[at] for row, at in zip(self._rows, self._places(key), strict=True))


class TinyLFU(Generic[K, V]):
    """At most so many entries, in a window and a main part.

    Args:
        capacity: The most entries.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._window_capacity = max(1, int(capacity * WINDOW_SHARE))
        self._entries: dict[K, V] = {}
        self._window: OrderedDict[K, None] = OrderedDict()
        self._probation: OrderedDict[K, None] = OrderedDict()
        self._protected: OrderedDict[K, None] = OrderedDict()
        self._sketch = _Sketch(capacity)
        self._noted: deque[K] = deque(maxlen=MOST_NOTED)
        self._hits = self._misses = 0
        self._ratio, self._step = 0.0, STEP_SHARE * capacity

    def get(self, key: K) -> V | None:
        """Return an entry, as used; None if there is none."""
        entry = self._entries.get(key)
        if entry is not None:
            self._noted.append(key)
        return entry

    def put(self, key: K, entry: V) -> list[V]:
        """Keep an entry, if only for a while; return what gave way, an older one of the key too."""
        self._act_on_uses()
        self._misses += 1
        self._sketch.add(key)
        if key in self._entries:
            gone, self._entries[key] = [self._entries[key]], entry
            return gone
        self._entries[key] = entry
        self._window[key] = None
        gone = self._admit()
        if self._hits + self._misses >= PERIOD * self._capacity:
            self._climb()
        return gone

    def evict(self) -> V:
        """Let the entry go whose turn it is, and return it; there is one."""
        # The window's share of what there is: who evicts may keep fewer than the most entries
        room = max(1, len(self._entries) * self._window_capacity // self._capacity)
        moved = []
        while len(self._window) > room:
            moved.append(self._window.popitem(last=False)[0])
            self._probation[moved[-1]] = None
        victim = next(iter(self._probation or self._protected or self._window))
        loser = self._loser(moved[-1], victim) if moved else victim
        gone = self._entries[loser]
        self.drop(loser)
        return gone

    def drop(self, key: K) -> V | None:
        """Forget an entry, not how often its key was asked for; return it if there was one."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            for queue in (self._window, self._probation, self._protected):
                queue.pop(key, None)
        return entry

    def clear(self) -> None:
        """Forget all entries."""
        for queue in (self._entries, self._window, self._probation, self._protected):
            queue.clear()
        self._noted.clear()

    def items(self) -> list[tuple[K, V]]:
        """Return all entries, as they stand."""
        return list(self._entries.items())

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def _main_capacity(self) -> int:
        return self._capacity - self._window_capacity

    def _act_on_uses(self) -> None:
        while self._noted:
            key = self._noted.popleft()
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
        """Let what leaves the window into the main part, if it is asked for more than what would go there."""
        gone = []
        while len(self._window) > self._window_capacity:
            candidate, _ = self._window.popitem(last=False)
            self._probation[candidate] = None
            if len(self._probation) + len(self._protected) <= self._main_capacity:
                continue
            victim = next(iter(self._probation if len(self._probation) > 1 else self._protected), candidate)
            loser = self._loser(candidate, victim)
            gone.append(self._entries[loser])
            self.drop(loser)
        return gone

    def _loser(self, candidate: K, victim: K) -> K:
        return candidate if self._sketch.count(candidate) <= self._sketch.count(victim) else victim

    def _climb(self) -> None:
        """Make the window larger or smaller, as the last change was for the better or not."""
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
        wanted = self._window_capacity + round(self._step)
        self._window_capacity = min(max(1, wanted), max(1, int(self._capacity * PROTECTED_SHARE)))
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
