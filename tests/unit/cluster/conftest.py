"""A cluster of two shards, without servers."""

from __future__ import annotations

import pytest

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.cluster import Cluster, ShardNode
from cachebackend.node.breaker import Breaker
from cachebackend.options import ClusterAddress
from tests.unit.cluster.shards import HIGH, LOW, A, B, C, D, NothingMissed, topology


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Two shards: A with its replica C has the low slots, B with its replica D the high ones."""
    cluster = Cluster(ClusterAddress((("seed.test", 7000),)), (0.1, 0.1), SYSTEM_CLOCK)
    monkeypatch.setattr(ShardNode, "_start_probe", lambda self: None)
    monkeypatch.setattr(cluster, "reload_soon", lambda: None)

    def prepare(_: int, node: ShardNode) -> None:
        node.breaker, node.replay = Breaker(node.name, SYSTEM_CLOCK), NothingMissed()

    prepare(0, cluster.nodes[0])
    cluster.on_node = prepare
    cluster._apply(topology((A, [C], [LOW]), (B, [D], [HIGH])))
    return cluster
