"""S3-FIFO: a small queue for new keys, a main queue, and a ghost queue of keys that were evicted.

A key that is requested once passes through the small queue and is evicted. A key that is requested
again, while it is in the small queue or among the ghosts, moves to the main queue; there each access
saves it from one eviction. A hit moves nothing: it adds one to a counter.

A queue that finds an entry in its middle needs twice the memory of the rest of an entry. So an entry that
is dropped stays in its queue, and is passed over when its turn comes.

Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP '23, algorithm 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
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


class _Cell(Generic[K, V]):
    """An entry with its key, its count of accesses, and whether it is in the main queue."""

    __slots__ = ("entry", "is_main", "key", "uses")

    def __init__(self, key: K, entry: V, *, is_main: bool) -> None:
        self.key = key
        self.entry = entry
        self.uses = 0
        self.is_main = is_main


class _Queue(Generic[K, V]):
    """Cells in the order in which they were added.

    A cell that was removed stays until the queue meets it. Each removal looks at two more cells, and so at
    all of them in the time in which half of them are removed.

    Args:
        is_stored: Returns whether a cell was not removed.

    Attributes:
        count: The number of cells that were not removed.
    """

    __slots__ = ("_is_stored", "_older", "_younger", "count")

    def __init__(self, is_stored: Callable[[_Cell[K, V]], bool]) -> None:
        self._is_stored = is_stored
        #: The cells that were looked at, and those that were not yet.
        self._older: deque[_Cell[K, V]] = deque()
        self._younger: deque[_Cell[K, V]] = deque()
        self.count = 0

    def append(self, cell: _Cell[K, V]) -> None:
        """Add a cell at the end."""
        self._younger.append(cell)
        self.count += 1

    def pop(self) -> _Cell[K, V]:
        """Remove the first cell and return it; there must be one."""
        self.count -= 1
        while True:
            cell = (self._older or self._younger).popleft()
            if self._is_stored(cell):
                return cell

    def removed(self) -> None:
        """Note that a cell was removed, wherever it is."""
        self.count -= 1
        for _ in range(2):
            if not self._younger:
                self._older, self._younger = self._younger, self._older
            if self._younger and self._is_stored(cell := self._younger.popleft()):
                self._older.append(cell)

    def clear(self) -> None:
        """Remove all cells."""
        self._older.clear()
        self._younger.clear()
        self.count = 0


class _Ghosts:
    """The hashes of the keys that were evicted last: a key itself would need much more memory."""

    __slots__ = ("_hashes", "_order")

    def __init__(self) -> None:
        self._hashes: set[int] = set()
        self._order: deque[int] = deque()  # also of hashes that were taken out

    def add(self, key: object, limit: int) -> None:
        """Add a key, and forget the oldest ones beyond a limit."""
        hashed = hash(key)
        self._hashes.add(hashed)
        self._order.append(hashed)
        while len(self._hashes) > limit or len(self._order) > 2 * limit:
            self._hashes.discard(self._order.popleft())

    def take(self, key: object) -> bool:
        """Remove a key; return whether it was there."""
        hashed = hash(key)
        if hashed not in self._hashes:
            return False
        self._hashes.remove(hashed)
        return True


class S3FIFO(Generic[K, V]):
    """At most ``capacity`` entries, in two queues.

    Args:
        capacity: The most entries.
    """

    title: ClassVar[str] = "S3-FIFO"
    __slots__ = ("_capacity", "_cells", "_ghosts", "_main", "_small")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._cells: dict[K, _Cell[K, V]] = {}
        self._small: _Queue[K, V] = _Queue(self._is_stored)
        self._main: _Queue[K, V] = _Queue(self._is_stored)
        self._ghosts = _Ghosts()

    def get(self, key: K) -> V | None:
        """Return a key's entry and count an access; None if there is none."""
        cell = self._cells.get(key)
        if cell is None:
            return None
        if cell.uses < MAX_USES:
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
            previous, cell.entry = cell.entry, entry
            return [previous]
        removed = []
        while len(self._cells) >= self._capacity:
            removed.append(self.evict())
        is_main = self._ghosts.take(key)
        self._cells[key] = cell = _Cell(key, entry, is_main=is_main)
        (self._main if is_main else self._small).append(cell)
        return removed

    def drop(self, key: K) -> V | None:
        """Remove a key's entry and return it; None if there is none. A ghost of the key stays."""
        cell = self._cells.pop(key, None)
        if cell is None:
            return None
        (self._main if cell.is_main else self._small).removed()
        return cell.entry

    def clear(self) -> None:
        """Remove all entries and ghosts."""
        self._cells.clear()
        self._small.clear()
        self._main.clear()
        self._ghosts = _Ghosts()

    def items(self) -> list[tuple[K, V]]:
        """Return a copy of all keys and entries, without counting accesses."""
        return [(key, cell.entry) for key, cell in list(self._cells.items())]

    def __len__(self) -> int:
        return len(self._cells)

    def _is_stored(self, cell: _Cell[K, V]) -> bool:
        return self._cells.get(cell.key) is cell

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
        if self._small.count and (self._small.count >= self._small_limit or not self._main.count):
            return self._evict_small()
        return self._evict_main()

    def _evict_small(self) -> V:
        """Evict from the small queue: the oldest entry there that has not earned the main queue."""
        while self._small.count:
            cell = self._small.pop()
            if cell.uses < PROMOTED_USES:
                self._ghosts.add(cell.key, self._main_limit)
                return self._cells.pop(cell.key).entry
            cell.uses, cell.is_main = 0, True
            self._main.append(cell)
            if self._main.count > self._main_limit:
                break
        return self._evict_main()

    def _evict_main(self) -> V:
        """Evict from the main queue: the oldest entry whose count is 0; counts of older ones fall by 1."""
        while True:
            cell = self._main.pop()
            if not cell.uses:
                return self._cells.pop(cell.key).entry
            cell.uses -= 1
            self._main.append(cell)
