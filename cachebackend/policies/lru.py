"""LRU: evicts the least recently used entry."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar, Generic, TypeVar

from cachebackend.interrupts import raise_interrupt

__all__ = ["LRU"]

K = TypeVar("K")
V = TypeVar("V")


class LRU(Generic[K, V]):
    """At most ``capacity`` entries, ordered by their last access.

    Args:
        capacity: The most entries.
    """

    title: ClassVar[str] = "LRU"
    __slots__ = ("_capacity", "_entries")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return a key's entry and count an access; None if there is none."""
        entry = self._entries.get(key)
        if entry is not None:
            try:
                self._entries.move_to_end(key)
            except KeyError as error:  # another thread has dropped it meanwhile
                raise_interrupt(error)
                return None
        return entry

    def peek(self, key: K) -> V | None:
        """Return a key's entry without counting an access; None if there is none."""
        return self._entries.get(key)

    def put(self, key: K, entry: V) -> list[V]:
        """Store an entry; return the entries removed: the key's previous one, and those evicted."""
        removed = [self._entries[key]] if key in self._entries else []
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > self._capacity:
            removed.append(self.evict())
        return removed

    def evict(self) -> V:
        """Remove the least recently used entry, and return it; there must be one."""
        return self._entries.popitem(last=False)[1]

    def drop(self, key: K) -> V | None:
        """Remove a key's entry and return it; None if there is none."""
        return self._entries.pop(key, None)

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()

    def items(self) -> list[tuple[K, V]]:
        """Return a copy of all keys and entries, without counting accesses."""
        return list(self._entries.items())

    def __len__(self) -> int:
        return len(self._entries)
