"""Which shard a server belongs to."""

from __future__ import annotations

from cachebackend.cluster import Cluster
from cachebackend.cluster.topology import Server
from tests.unit.cluster.shards import HIGH, LOW, A, B, C, D, E, topology


def test_a_shard_is_found_by_the_address_of_its_primary(cluster: Cluster) -> None:
    """Replicas have addresses of their own."""
    members = cluster._members
    assert [members.index_at((server.host, server.port)) for server in (A, B, C, E)] == [0, 1, None, None]
    assert [members.is_replica((server.host, server.port)) for server in (A, C, D)] == [False, True, True]


def test_a_server_with_a_new_address_is_the_same_shard(cluster: Cluster) -> None:
    """Its ID says so."""
    moved = Server("b", "elsewhere.test", 7001)
    shards = topology((A, [C], [LOW]), (moved, [D], [HIGH])).shards
    assert [index for index, _ in cluster._members.follow(shards, [0, 1])] == [0, 1]
    assert cluster.nodes[1].name == "elsewhere.test:7001"
