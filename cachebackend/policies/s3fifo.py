"""S3-FIFO: a small queue that most new keys leave soon, a main one, and the ghosts of those that left.

A key that is asked for once passes through the small queue and is gone; one that is asked for
again, in it or while its ghost is remembered, comes to the main queue, where each use spares it
one turn. A hit moves nothing: it adds one to a counter.

Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP '23, algorithm 1.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["S3FIFO"]

K = TypeVar("K")
V = TypeVar("V")
#: The small queue's share of all entries.
SMALL_SHARE = 0.1
#: Uses that are counted of an entry.
MOST_USES = 3
#: Uses in the small queue that bring an entry to the main one.
PROMOTED_USES = 2


class S3FIFO(Generic[K, V]):
    """At most so many entries, in two queues.

    Args:
        capacity: The most entries.
    """

    __slots__ = ("_capacity", "_entries", "_ghosts", "_main", "_small")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        #: Each key's entry and how often it was used.
        self._entries: dict[K, list[object]] = {}
        self._small: OrderedDict[K, None] = OrderedDict()
        self._main: OrderedDict[K, None] = OrderedDict()
        self._ghosts: OrderedDict[K, None] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return an entry, as used once more; None if there is none."""
        cell = self._entries.get(key)
        if cell is None:
            return None
        if cell[1] < MOST_USES:  # type: ignore[operator]  # a count
            cell[1] += 1  # type: ignore[operator]  # a count
        return cell[0]  # type: ignore[return-value]  # an entry

    def put(self, key: K, entry: V) -> list[V]:
        """Keep an entry; return what gave way, an older one of the key too."""
        cell = self._entries.get(key)
        if cell is not None:
            gone, cell[0] = cell[0], entry
            return [gone]  # type: ignore[list-item]  # an entry
        gone_for_room = []
        while len(self._entries) >= self._capacity:
            gone_for_room.append(self.evict())
        if self._ghosts.pop(key, self) is None:
            self._main[key] = None
        else:
            self._small[key] = None
        self._entries[key] = [entry, 0]
        return gone_for_room

    def drop(self, key: K) -> V | None:
        """Forget an entry, not that its key was asked for; return it if there was one."""
        cell = self._entries.pop(key, None)
        if cell is None:
            return None
        self._small.pop(key, None)
        self._main.pop(key, None)
        return cell[0]  # type: ignore[return-value]  # an entry

    def clear(self) -> None:
        """Forget all."""
        for queue in (self._entries, self._small, self._main, self._ghosts):
            queue.clear()

    def items(self) -> list[tuple[K, V]]:
        """Return all entries, as they stand."""
        return [(key, cell[0]) for key, cell in list(self._entries.items())]  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def _small_room(self) -> int:
        """The small queue's share of what there is: who evicts may keep fewer than the most entries."""
        return max(1, int(len(self._entries) * SMALL_SHARE))

    @property
    def _main_room(self) -> int:
        return max(1, len(self._entries) - self._small_room)

    def evict(self) -> V:
        """Let the entry go whose turn it is, and return it; there is one."""
        if self._small and (len(self._small) >= self._small_room or not self._main):
            return self._evict_small()
        return self._evict_main()

    def _evict_small(self) -> V:
        """Let the oldest of the small queue go, or on to the main one if it was used."""
        while self._small:
            key, _ = self._small.popitem(last=False)
            if self._entries[key][1] >= PROMOTED_USES:  # type: ignore[operator]  # a count
                self._entries[key][1] = 0
                self._main[key] = None
                if len(self._main) > self._main_room:
                    break
            else:
                self._ghosts[key] = None
                while len(self._ghosts) > self._main_room:
                    self._ghosts.popitem(last=False)
                return self._entries.pop(key)[0]  # type: ignore[return-value]  # an entry
        return self._evict_main()

    def _evict_main(self) -> V:
        """Let the oldest of the main queue go that was not used since its last turn."""
        while True:
            key, _ = self._main.popitem(last=False)
            uses = self._entries[key][1]
            if uses > 0:  # type: ignore[operator]  # a count
                self._entries[key][1] = uses - 1  # type: ignore[operator]  # a count
                self._main[key] = None
            else:
                return self._entries.pop(key)[0]  # type: ignore[return-value]  # an entry
