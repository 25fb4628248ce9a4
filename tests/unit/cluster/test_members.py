"""Which shard a server belongs to."""

from __future__ import annotations

import pytest

from cachebackend.cluster import Cluster, members
from cachebackend.cluster.topology import Server
from cachebackend.errors import RedirectedError
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


def test_the_nodes_of_a_cluster_are_bounded(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that redirects keys to ever new addresses makes no more; those with slots stay."""
    monkeypatch.setattr(members, "MAX_MEMBERS", 5)
    for port in range(1, 20):
        redirection = RedirectedError.read(f"ASK 1 e.test:{port}")
        index = cluster.add_target(cluster.shards[0], redirection)
        assert index is not None
        assert cluster.shards[index].name == f"e.test:{port}"
        cluster._apply(topology((A, [Server(f"{port}", "f.test", port)], [LOW]), (B, [D], [HIGH])))
    assert len(cluster.shards) == 5
    assert len(cluster._members._shard_of) <= 8
    assert [cluster.shards[index].name for index in (0, 1)] == ["a.test:7000", "b.test:7000"]
