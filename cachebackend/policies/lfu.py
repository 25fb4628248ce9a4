"""LFU: evicts the least frequently used entry; of several, the one that was stored first.

An access adds one to the entry's count and moves nothing. A heap orders the entries by the count
that they had when the heap last looked at them. An entry at the top that was accessed since is
pushed back with its present count. Counts never fall: an entry that was accessed often long ago is
stored for a long time.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count
from typing import ClassVar, Generic, TypeVar

__all__ = ["LFU"]

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class _Cell(Generic[V]):
    """An entry, its count of accesses, and a number that grows with each key that is stored."""

    entry: V
    uses: int
    number: int


class LFU(Generic[K, V]):
    """At most ``capacity`` entries, each with its count of accesses.

    Args:
        capacity: The most entries.
    """

    title: ClassVar[str] = "LFU"
    __slots__ = ("_capacity", "_cells", "_heap", "_numbers")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._cells: dict[K, _Cell[V]] = {}
        self._heap: list[tuple[int, int, K]] = []
        self._numbers = count()

    def get(self, key: K) -> V | None:
        """Return a key's entry and count an access; None if there is none."""
        cell = self._cells.get(key)
        if cell is None:
            return None
        cell.uses += 1
        return cell.entry

    def peek(self, key: K) -> V | None:
        """Return a key's entry without counting an access; None if there is none."""
        cell = self._cells.get(key)
        return None if cell is None else cell.entry

    def put(self, key: K, entry: V) -> list[V]:
        """Store an entry; return the entries removed: the key's previous one, and those evicted."""
        cell = self._cells.get(key)
        if cell is not None:
            removed, cell.entry = [cell.entry], entry
            return removed
        removed = []
        while len(self._cells) >= self._capacity:
            removed.append(self.evict())
        number = next(self._numbers)
        self._cells[key] = _Cell(entry, 0, number)
        heapq.heappush(self._heap, (0, number, key))
        return removed

    def drop(self, key: K) -> V | None:
        """Remove a key's entry and return it; None if there is none.

        The heap still has the key until it reaches the top, or until the heap is rebuilt because it
        has grown to twice the capacity.
        """
        cell = self._cells.pop(key, None)
        if len(self._heap) > 2 * self._capacity + 16:
            self._heap = [(each.uses, each.number, key) for key, each in self._cells.items()]
            heapq.heapify(self._heap)
        return None if cell is None else cell.entry

    def clear(self) -> None:
        """Remove all entries."""
        self._cells.clear()
        self._heap.clear()

    def items(self) -> list[tuple[K, V]]:
        """Return a copy of all keys and entries, without counting accesses."""
        return [(key, cell.entry) for key, cell in list(self._cells.items())]

    def __len__(self) -> int:
        return len(self._cells)

    def evict(self) -> V:
        """Remove the least frequently used entry, and return it; there must be one."""
        while True:
            uses, number, key = heapq.heappop(self._heap)
            cell = self._cells.get(key)
            if cell is None or cell.number != number:
                continue  # the key was dropped
            if cell.uses == uses:
                return self._cells.pop(key).entry
            heapq.heappush(self._heap, (cell.uses, number, key))
