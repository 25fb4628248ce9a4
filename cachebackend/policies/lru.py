"""Least recently used: what was not asked for the longest gives way."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["LRU"]

K = TypeVar("K")
V = TypeVar("V")


class LRU(Generic[K, V]):
    """At most so many entries, ordered by their last use.

    Args:
        capacity: The most entries.
    """

    __slots__ = ("_capacity", "_entries")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return an entry, as used now; None if there is none."""
        entry = self._entries.get(key)
        if entry is not None:
            try:
                self._entries.move_to_end(key)
            except KeyError:  # another thread has dropped it meanwhile
                return None
        return entry

    def put(self, key: K, entry: V) -> list[V]:
        """Keep an entry; return what gave way, an older one of the key too."""
        gone = [self._entries[key]] if key in self._entries else []
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > self._capacity:
            gone.append(self.evict())
        return gone

    def evict(self) -> V:
        """Let the entry go whose turn it is, and return it; there is one."""
        return self._entries.popitem(last=False)[1]

    def drop(self, key: K) -> V | None:
        """Forget an entry; return it if there was one."""
        return self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()

    def items(self) -> list[tuple[K, V]]:
        """Return all entries, as they stand."""
        return list(self._entries.items())

    def __len__(self) -> int:
        return len(self._entries)
