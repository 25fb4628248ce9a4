"""A slot of a real cluster that no server has, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cacheproject.cluster import Cluster
from tests.node_settings import cluster_settings
from tests.waits import wait_until

__all__ = ["unserved"]


@contextmanager
def unserved(cluster: Cluster, slot: int) -> Iterator[None]:
    """Take a slot from its owner; the cluster serves the others. Give it back at the end."""
    owner = cluster.primary_of(slot)
    try:
        with cluster_settings(cluster, cluster_require_full_coverage="no"):
            try:
                wait_until(lambda: _is_unserved(cluster, slot))
                yield
            finally:
                cluster.ask(owner, "CLUSTER", "ADDSLOTS", slot)
                cluster.wait_until_agreed(slot, owner)
    finally:
        cluster.wait_until_ok()


def _is_unserved(cluster: Cluster, slot: int) -> bool:
    """Take a slot from its owner; return whether no primary believes in an owner any more."""
    ranges = [(name, each) for name in cluster.primaries for each in cluster.ask(name, "CLUSTER", "SLOTS")]
    names = {name for name, (first, last, *_) in ranges if first <= slot <= last}
    for name in names:
        cluster.ask(name, "CLUSTER", "DELSLOTS", slot)
    return not names
