"""The interface of an eviction policy."""

from __future__ import annotations

from typing import ClassVar, Protocol, TypeVar

__all__ = ["Policy", "SimulatedPolicy"]

K = TypeVar("K")
K_contra = TypeVar("K_contra", contravariant=True)
V = TypeVar("V")


class SimulatedPolicy(Protocol[K_contra, V]):
    """The part of a policy that a simulation uses.

    Args:
        capacity: The most entries that it stores.

    Attributes:
        title: The policy's name in tables and charts.
    """

    title: ClassVar[str]

    def __init__(self, capacity: int) -> None: ...

    def get(self, key: K_contra) -> V | None:
        """Return a key's entry and count an access; None if there is none."""
        ...

    def put(self, key: K_contra, entry: V) -> object:
        """Store an entry, and evict others while there are more than ``capacity``."""
        ...


class Policy(SimulatedPolicy[K, V], Protocol[K, V]):
    """A mapping of at most ``capacity`` entries that chooses which entry to evict.

    It knows nothing of time, nodes or threads. The caller calls everything except ``get`` and ``peek`` under
    one lock. These may run at the same time in another thread: the access that it counts may be
    lost, and nothing else.
    """

    def put(self, key: K, entry: V) -> list[V]:
        """Store an entry; return the entries removed: the key's previous one, and those evicted."""
        ...

    def peek(self, key: K) -> V | None:
        """Return a key's entry without counting an access; None if there is none."""
        ...

    def evict(self) -> V:
        """Remove the entry that the policy chooses, and return it; there must be one."""
        ...

    def drop(self, key: K) -> V | None:
        """Remove a key's entry and return it; None if there is none."""
        ...

    def clear(self) -> None:
        """Remove all entries."""
        ...

    def items(self) -> list[tuple[K, V]]:
        """Return a copy of all keys and entries, without counting accesses."""
        ...

    def __len__(self) -> int: ...
