"""The queue nodes: what each reports, as text, and its faults."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cachebackend.monitoring import queue_nodes
from cachebackend.monitoring.queue_nodes import QueueNodeFigures, queue_node_faults
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind import PartitionStatus
from cachebackend.writebehind.node_health import NodeHealth

MEGABYTE = 1024**2


@pytest.mark.parametrize(
    ("health", "memory", "file"),
    [
        (NodeHealth(3 * MEGABYTE, 0, "off"), "3.0 MB, no limit", "no file"),
        (NodeHealth(MEGABYTE, 4 * MEGABYTE, "ok"), "1.0 MB of 4.0 MB", "file written"),
        (NodeHealth(MEGABYTE, None, "err"), "1.0 MB, no limit", "file not written"),
        (NodeHealth(), "", ""),
    ],
)
def test_what_is_not_known_is_not_shown(health: NodeHealth, memory: str, file: str) -> None:
    """Never a zero in its place."""
    figures = QueueNodeFigures("q", health=health)
    assert figures.memory_text.replace("\N{NO-BREAK SPACE}", " ") == memory
    assert figures.file_text == file


def test_each_node_has_its_own_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is down, one that is full, one whose disk fails, and what is set up wrong on the others."""
    asked: list[list[int]] = []
    servers = {"a": [0], "b": [1], "c": [2]}
    client = SimpleNamespace(cluster=None, servers=lambda: servers)
    monkeypatch.setattr(queue_nodes, "monitoring_queue", lambda: client)
    monkeypatch.setattr(queue_nodes, "settings_faults", lambda _, up: asked.append(up) or ["set x"])
    nodes = [
        QueueNodeFigures("a", "node 'a' is not reachable", 7.0, address="h:1"),
        QueueNodeFigures("b", health=NodeHealth(9, 9)),
        QueueNodeFigures("c", health=NodeHealth(aof_status="err")),
    ]
    faults = list(queue_node_faults(nodes))
    assert [(fault.kind, fault.since) for fault in faults] == [
        (FaultKind.QUEUE_NODE_DOWN, 7.0),
        (FaultKind.QUEUE_NODE_FULL, None),
        (FaultKind.QUEUE_NODE_DISK, None),
        (FaultKind.QUEUE_SETTINGS, None),
    ]
    assert faults[0].message == "Queue node a (h:1) is down: it is not reachable"
    assert asked == [[1, 2]]


@pytest.mark.parametrize(("fields", "is_empty"), [(0, True), (3, False), (None, False)])
def test_a_full_node_says_if_its_queue_is_empty(
    monkeypatch: pytest.MonkeyPatch, fields: int | None, is_empty: bool
) -> None:
    """Then no drain frees memory: its limit is too small."""
    client = SimpleNamespace(servers=lambda: {"b": [1]}, cluster=None)
    monkeypatch.setattr(queue_nodes, "monitoring_queue", lambda: client)
    monkeypatch.setattr(queue_nodes, "settings_faults", lambda *_: [])
    partitions = [PartitionStatus(Partition("shop.meter", 0), "b", fields=fields)]
    [fault] = queue_node_faults([QueueNodeFigures("b", health=NodeHealth(9, 9))], partitions)
    assert ("the limit is too small" in fault.way_out) is is_empty
