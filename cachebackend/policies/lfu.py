"""LFU: the entry that was used least often gives way; of several, the one that came first.

A use adds one to a count and moves nothing. A heap has each entry by the count that it had when
it was last looked at; one that turns out to have been used since goes back under its new count.
Nothing is ever forgotten of an entry that stays: what was asked for often long ago stays long.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

__all__ = ["LFU"]

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class _Cell(Generic[V]):
    """An entry, how often it was used, and the number that it was put under."""

    entry: V
    uses: int
    number: int


class LFU(Generic[K, V]):
    """At most so many entries.

    Args:
        capacity: The most entries.
    """

    __slots__ = ("_capacity", "_entries", "_heap", "_numbers")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: dict[K, _Cell[V]] = {}
        self._heap: list[tuple[int, int, K]] = []
        self._numbers = count()

    def get(self, key: K) -> V | None:
        """Return an entry, as used once more; None if there is none."""
        cell = self._entries.get(key)
        if cell is None:
            return None
        cell.uses += 1
        return cell.entry

    def put(self, key: K, entry: V) -> list[V]:
        """Keep an entry; return what gave way, an older one of the key too."""
        cell = self._entries.get(key)
        if cell is not None:
            gone, cell.entry = [cell.entry], entry
            return gone
        gone = []
        while len(self._entries) >= self._capacity:
            gone.append(self.evict())
        number = next(self._numbers)
        self._entries[key] = _Cell(entry, 0, number)
        heapq.heappush(self._heap, (0, number, key))
        return gone

    def drop(self, key: K) -> V | None:
        """Forget an entry, which the heap finds out later; return it if there was one."""
        cell = self._entries.pop(key, None)
        if len(self._heap) > 2 * self._capacity + 16:
            self._heap = [(each.uses, each.number, key) for key, each in self._entries.items()]
            heapq.heapify(self._heap)
        return None if cell is None else cell.entry

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
        self._heap.clear()

    def items(self) -> list[tuple[K, V]]:
        """Return all entries, as they stand."""
        return [(key, cell.entry) for key, cell in list(self._entries.items())]

    def __len__(self) -> int:
        return len(self._entries)

    def evict(self) -> V:
        """Let the entry go whose turn it is, and return it; there is one."""
        while True:
            uses, number, key = heapq.heappop(self._heap)
            cell = self._entries.get(key)
            if cell is None or cell.number != number:
                continue  # it was dropped
            if cell.uses == uses:
                return self._entries.pop(key).entry
            heapq.heappush(self._heap, (cell.uses, number, key))
