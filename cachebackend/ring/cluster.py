"""The slots of a Redis or Valkey Cluster, and the owner of each.

A key's slot is the CRC16 of the key, modulo 16,384. If a key has ``{`` and later ``}`` with something
in between, only that part is hashed (a hash tag), so that keys with one tag are in one slot.

Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/, "Key distribution model".
"""

from __future__ import annotations

from array import array
from binascii import crc_hqx
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TypeVar

__all__ = ["CLUSTER_SLOTS", "ClusterRing", "cluster_slot", "key_in_slot"]

T = TypeVar("T")
#: The number of slots of every cluster.
CLUSTER_SLOTS = 16_384
_MASK = CLUSTER_SLOTS - 1
#: The generator polynomial of the CRC.
_POLYNOMIAL = 0x11021


def cluster_slot(key: bytes) -> int:
    """Return the slot of a key in a cluster, 0 to 16,383."""
    begin = key.find(b"{")
    if begin >= 0:
        end = key.find(b"}", begin + 1)
        if end > begin + 1:
            key = key[begin + 1 : end]
    return crc_hqx(key, 0) & _MASK


def key_in_slot(prefix: bytes, slot: int) -> bytes:
    """Return a key in a slot of a cluster: a prefix without braces, and two more bytes.

    The CRC of the prefix is the state of the register before these bytes. They bring it to the slot if they
    are the state from which sixteen zero bits lead there, XOR the state before them.
    """
    state = slot
    for _ in range(16):
        state = (state ^ _POLYNOMIAL if state & 1 else state) >> 1
    return prefix + (state ^ crc_hqx(prefix, 0)).to_bytes(2)


class ClusterRing:
    """The owner of each slot of a cluster, by the index of a node. It changes while the cluster does.

    Threads may read it while one thread changes it: a change of one slot and the change of all slots are
    single steps.

    Args:
        first: The index of the node that owns all slots until ``replace`` is called.
    """

    keys_move = True
    #: A key may move from a node that was not visited yet to one that was; then the second visit sees it.
    passes = 2

    def __init__(self, first: int = 0) -> None:
        self._owners = array("H", [first]) * CLUSTER_SLOTS
        #: The name of each node, by its index; also of nodes that are not the cluster's.
        self.names: tuple[str, ...] = ("",) * (first + 1)
        #: The nodes that are, or were, the cluster's.
        self.members = {first}
        #: The slots that no server has. Their commands still go to the last owner, which refuses them.
        self.unserved: frozenset[int] = frozenset()
        #: The nodes of servers without slots, which may have keys of slots that move to them.
        self.empty: tuple[int, ...] = ()
        #: Reads the table again; None: nothing does.
        self.refresh: Callable[[], None] | None = None

    def owner(self, key: bytes) -> int:
        """Return the index of the node that owns a key."""
        if b"{" in key:
            return self._owners[cluster_slot(key)]
        return self._owners[crc_hqx(key, 0) & _MASK]

    def holder(self, node: int, key: bytes) -> int:
        """Return the node that has a key which a node had before: of the cluster, the present owner."""
        return self.owner(key) if node in self.members else node

    def copies(self, key: bytes, number: int) -> list[int]:
        """Return the nodes that store copies of a key: its owner; the cluster itself makes copies."""
        del number
        return [self.owner(key)]

    def slot_of(self, key: bytes) -> int:
        """Return the slot of a key."""
        return cluster_slot(key)

    def owner_of_slot(self, slot: int) -> int:
        """Return the index of the node that owns a slot."""
        return self._owners[slot]

    def has_member(self, node: int) -> bool:
        """Return whether a node is, or was, the cluster's, also one without slots."""
        return node in self.members or node in self.empty

    def served_slot(self, node: int, first: int = 0) -> int | None:
        """Return a slot that a node owns, and that a server has; None: there is none.

        It is the next one from ``first`` on, or from 0 on if there is none.
        """
        owners = self._owners
        slots = (slot for slot in chain(range(first, CLUSTER_SLOTS), range(first)) if owners[slot] == node)
        return next((slot for slot in slots if slot not in self.unserved), None)

    @property
    def owners(self) -> array[int]:
        """The index of each slot's owner, in a new array."""
        return self._owners[:]

    def set_owner(self, slot: int, node: int) -> None:
        """Give a slot to a node."""
        self.members.add(node)
        self._owners[slot] = node
        self.unserved -= {slot}

    def replace(
        self, owners: Sequence[int], names: Sequence[str], unserved: frozenset[int] = frozenset()
    ) -> None:
        """Give every slot to a node.

        Args:
            owners: The index of each slot's owner.
            names: The name of each node.
            unserved: The slots that no server has.
        """
        self.members.update(owners)
        self._owners, self.names, self.unserved = array("H", owners), tuple(names), unserved

    @property
    def nodes(self) -> list[int]:
        """The indexes of the nodes that own slots."""
        return sorted(set(self._owners))

    @property
    def holders(self) -> list[int]:
        """The indexes of the nodes that may have keys: also those to which their first slots move."""
        return sorted({*self._owners, *self.empty})

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each node; a cluster has none, so all are 1."""
        return (1.0,) * len(self.names)

    def shares(self) -> list[int]:
        """Return how many of the 16,384 slots each node owns."""
        shares = [self._owners.count(index) for index in range(len(self.names))]
        for slot in self.unserved:
            shares[self._owners[slot]] -= 1
        return shares

    def by_owner(self, keys: Iterable[tuple[bytes, T]]) -> dict[int, list[T]]:
        """Group the items of (key, item) pairs by the owner of the key; the order is kept."""
        owners = self._owners
        groups: dict[int, list[T]] = {}
        for key, item in keys:
            # As ``owner`` does, without a call
            node = owners[cluster_slot(key) if b"{" in key else crc_hqx(key, 0) & _MASK]
            if node in groups:
                groups[node].append(item)
            else:
                groups[node] = [item]
        return groups

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"ClusterRing({', '.join(self.names)}; {CLUSTER_SLOTS} slots)"
