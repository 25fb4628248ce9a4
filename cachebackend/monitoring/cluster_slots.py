"""Slots of a cluster that no server has, and servers that have no slots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cachebackend.cluster import Cluster
from cachebackend.errors import RingCacheError
from cachebackend.monitoring.faults import Fault
from cachebackend.monitoring.formatting import counted
from cachebackend.monitoring.runbook import FaultKind

__all__ = ["empty_notes", "read_slots", "unserved_faults"]


def read_slots(
    clusters: Iterable[Cluster], infos: Sequence[dict[str, str] | RingCacheError], *, with_empty: bool = False
) -> None:
    """Read which slots have servers now: no server announces that.

    Args:
        clusters: The clusters.
        infos: The ``INFO`` of their servers, which were asked just now. If none answers, none is asked again.
        with_empty: Whether to read which servers have no slots, too. Users of queues need no right for that.
    """
    if not all(isinstance(info, RingCacheError) for info in infos):
        for cluster in clusters:
            cluster.try_reload()
            if with_empty:
                cluster.find_empty()


def unserved_faults(owner: str, clusters: Iterable[Cluster], scope: frozenset[str]) -> Iterator[Fault]:
    """Yield a fault for each cluster some of whose slots no server has.

    Args:
        owner: What uses the clusters, for the message.
        clusters: The clusters, as ``read_slots`` has read them.
        scope: What the fault concerns.
    """
    for cluster in clusters:
        if count := len(cluster.ring.unserved):
            slots = f"{counted(count, 'slot')} of the cluster of {owner} {'is' if count == 1 else 'are'}"
            message = f"{slots} served by no server: keys there miss, and deletes of them wait."
            yield Fault(FaultKind.SLOTS_UNSERVED, message, scope=scope)


def empty_notes(owner: str, clusters: Iterable[Cluster], scope: frozenset[str]) -> Iterator[Fault]:
    """Yield a note for each server without slots; the arguments are those of ``unserved_faults``."""
    for cluster in clusters:
        for index in cluster.ring.empty:
            name = cluster.nodes[index].name
            message = f"{name}, a server of the cluster of {owner}, has no slots, so no key belongs to it."
            yield Fault(FaultKind.SERVER_WITHOUT_SLOTS, message, scope=scope, is_note=True)
