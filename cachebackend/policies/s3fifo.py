"""S3-FIFO: a small queue for new keys, a main queue, and a ghost queue of keys that were evicted.

A key that is requested once passes through the small queue and is evicted. A key that is requested
again, while it is in the small queue or among the ghosts, moves to the main queue; there each access
saves it from one eviction. A hit moves nothing: it adds one to a counter.

Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP '23, algorithm 1.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar, Generic, TypeVar

__all__ = ["S3FIFO"]

K = TypeVar("K")
V = TypeVar("V")
#: The small queue's share of all entries.
SMALL_SHARE = 0.1
#: An entry's count of accesses stops here.
MAX_USES = 3
#: An entry of the small queue moves to the main queue if it was accessed this many times.
PROMOTED_USES = 2


class S3FIFO(Generic[K, V]):
    """At most ``capacity`` entries, in two queues.

    Args:
        capacity: The most entries.
    """

    title: ClassVar[str] = "S3-FIFO"
    __slots__ = ("_capacity", "_cells", "_ghosts", "_main", "_small")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        #: Each key's entry and its count of accesses.
        self._cells: dict[K, list[object]] = {}
        self._small: OrderedDict[K, None] = OrderedDict()
        self._main: OrderedDict[K, None] = OrderedDict()
        self._ghosts: OrderedDict[K, None] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return a key's entry and count an access; None if there is none."""
        cell = self._cells.get(key)
        if cell is None:
            return None
        if cell[1] < MAX_USES:  # type: ignore[operator]  # a count
            cell[1] += 1  # type: ignore[operator]  # a count
        return cell[0]  # type: ignore[return-value]  # an entry

    def peek(self, key: K) -> V | None:
        """Return a key's entry without counting an access; None if there is none."""
        cell = self._cells.get(key)
        return None if cell is None else cell[0]  # type: ignore[return-value]  # an entry

    def put(self, key: K, entry: V) -> list[V]:
        """Store an entry; return the entries removed: the key's previous one, and those evicted."""
        cell = self._cells.get(key)
        if cell is not None:
            previous, cell[0] = cell[0], entry
            return [previous]  # type: ignore[list-item]  # an entry
        removed = []
        while len(self._cells) >= self._capacity:
            removed.append(self.evict())
        if self._ghosts.pop(key, self) is None:
            self._main[key] = None
        else:
            self._small[key] = None
        self._cells[key] = [entry, 0]
        return removed

    def drop(self, key: K) -> V | None:
        """Remove a key's entry and return it; None if there is none. A ghost of the key stays."""
        cell = self._cells.pop(key, None)
        if cell is None:
            return None
        self._small.pop(key, None)
        self._main.pop(key, None)
        return cell[0]  # type: ignore[return-value]  # an entry

    def clear(self) -> None:
        """Remove all entries and ghosts."""
        for queue in (self._cells, self._small, self._main, self._ghosts):
            queue.clear()

    def items(self) -> list[tuple[K, V]]:
        """Return a copy of all keys and entries, without counting accesses."""
        return [(key, cell[0]) for key, cell in list(self._cells.items())]  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._cells)

    @property
    def _small_limit(self) -> int:
        """The most entries of the small queue.

        It is a share of the entries stored now, not of the capacity: a caller that also limits bytes
        calls ``evict`` long before there are ``capacity`` entries.
        """
        return max(1, int(len(self._cells) * SMALL_SHARE))

    @property
    def _main_limit(self) -> int:
        return max(1, len(self._cells) - self._small_limit)

    def evict(self) -> V:
        """Remove the entry that the policy chooses, and return it; there must be one."""
        if self._small and (len(self._small) >= self._small_limit or not self._main):
            return self._evict_small()
        return self._evict_main()

    def _evict_small(self) -> V:
        """Evict from the small queue: the oldest entry there that has not earned the main queue."""
        while self._small:
            key, _ = self._small.popitem(last=False)
            if self._cells[key][1] >= PROMOTED_USES:  # type: ignore[operator]  # a count
                self._cells[key][1] = 0
                self._main[key] = None
                if len(self._main) > self._main_limit:
                    break
            else:
                self._ghosts[key] = None
                while len(self._ghosts) > self._main_limit:
                    self._ghosts.popitem(last=False)
                return self._cells.pop(key)[0]  # type: ignore[return-value]  # an entry
        return self._evict_main()

    def _evict_main(self) -> V:
        """Evict from the main queue: the oldest entry whose count is 0; counts of older ones fall by 1."""
        while True:
            key, _ = self._main.popitem(last=False)
            uses = self._cells[key][1]
            if uses > 0:  # type: ignore[operator]  # a count
                self._cells[key][1] = uses - 1  # type: ignore[operator]  # a count
                self._main[key] = None
            else:
                return self._cells.pop(key)[0]  # type: ignore[return-value]  # an entry
