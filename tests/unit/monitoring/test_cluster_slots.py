"""Slots of a cluster that no server has."""

from __future__ import annotations

import pytest

from cachebackend.cluster import Cluster
from cachebackend.errors import NodeUnavailableError
from cachebackend.monitoring.cluster_slots import read_slots, unserved_faults
from cachebackend.monitoring.faults import alias_scope
from cachebackend.monitoring.runbook import FaultKind
from tests.unit.cluster.conftest import cluster  # noqa: F401  # a fixture
from tests.unit.cluster.shards import HALF, HIGH, LOW, A, B, topology


def test_slots_without_a_server_are_one_fault(
    cluster: Cluster,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With their number; the topology is read for it, unless no server answers."""
    monkeypatch.setattr(cluster, "_read", lambda: topology((A, [], [(0, 9)]), (B, [], [HIGH])))
    read_slots([cluster], [NodeUnavailableError("down")])
    scope = alias_scope("default")
    assert list(unserved_faults("'default'", [cluster], scope)) == []
    read_slots([cluster], [{}, NodeUnavailableError("down")])
    [fault] = unserved_faults("'default'", [cluster], scope)
    assert (fault.kind, fault.topic, fault.scope) == (FaultKind.SLOTS_UNSERVED, "nodes", scope)
    assert f"{HALF - 10:,} slots of the cluster of 'default' are served by no server" in fault.message
    monkeypatch.setattr(cluster, "_read", lambda: topology((A, [], [LOW]), (B, [], [HIGH])))
    read_slots([cluster], [{}])
    assert list(unserved_faults("'default'", [cluster], scope)) == []
