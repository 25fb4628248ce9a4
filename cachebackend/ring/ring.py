"""The ring: its nodes in order, and the owner of each key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from xxhash import xxh3_64_intdigest

from cachebackend.ring.slots import SLOT_SHIFT, SLOTS, slot_of
from cachebackend.ring.table import build_table

__all__ = ["Ring"]

T = TypeVar("T")


class Ring:
    """An immutable ring of nodes with names and weights; methods return the index of a node.

    Args:
        nodes: Name and weight of each node.
        seed: The seed of the hash of keys. It changes the owner of a key, not the owner of a slot.
    """

    __slots__ = ("_seed", "_table", "names", "weights")
    #: Whether a key may move to another node while an operation runs.
    keys_move = False
    #: How often all nodes must be visited to see every key.
    passes = 1
    #: Reads the table again; None: it does not change.
    refresh: Callable[[], None] | None = None

    def __init__(self, nodes: Sequence[tuple[str, float]], seed: int = 0) -> None:
        self.names = tuple(name for name, _ in nodes)
        self.weights = tuple(weight for _, weight in nodes)
        self._seed = seed
        self._table = build_table(nodes)

    def owner(self, key: bytes) -> int:
        """Return the index of the node that owns a key."""
        return self._table[xxh3_64_intdigest(key, self._seed) >> SLOT_SHIFT]

    def holder(self, node: int, key: bytes) -> int:
        """Return the index of the node that has a key which a node had before: the same node."""
        del key
        return node

    def copies(self, key: bytes, number: int) -> list[int]:
        """Return the nodes that store copies of a key: its owner, and the next ones; at most ``number``."""
        owner, nodes = self.owner(key), len(self.names)
        return [(owner + offset) % nodes for offset in range(min(number, nodes))]

    @property
    def nodes(self) -> range:
        """The indexes of the nodes."""
        return range(len(self.names))

    @property
    def holders(self) -> range:
        """The indexes of the nodes that may have keys: all."""
        return self.nodes

    def slot_of(self, key: bytes) -> int:
        """Return the slot of a key."""
        return slot_of(key, self._seed)

    def owner_of_slot(self, slot: int) -> int:
        """Return the index of the node that owns a slot."""
        return self._table[slot]

    def shares(self) -> list[int]:
        """Return how many of the 65,536 slots each node owns."""
        return [self._table.count(index) for index in range(len(self.names))]

    def moved(self, new_ring: Ring) -> int:
        """Return how many slots change their owner when the ring changes to a ring of the same seed."""
        return sum(
            self.names[old] != new_ring.names[new]
            for old, new in zip(self._table, new_ring._table, strict=True)
        )

    def by_owner(self, keys: Iterable[tuple[bytes, T]]) -> dict[int, list[T]]:
        """Group the items of (key, item) pairs by the owner of the key; the order is kept."""
        table = self._table
        groups: list[list[T]] = [[] for _ in self.names]
        for key, item in keys:
            groups[table[xxh3_64_intdigest(key, self._seed) >> SLOT_SHIFT]].append(item)
        return {owner: items for owner, items in enumerate(groups) if items}

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Ring({', '.join(self.names)}; {SLOTS} slots)"
