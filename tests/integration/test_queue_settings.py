"""Queue nodes that do not store writes as durably as the settings demand: every view names them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cachebackend import writebehind
from cachebackend.monitoring import queue_figures
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.writebehind.queue import project_queue
from tests.integration.test_queue_memory_and_disk import metrics, report
from tests.node_settings import node_settings

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


@pytest.fixture(params=[("appendonly", "no", "has no append-only file"), ("appendfsync", "no", "lets its")])
def wrong_setting(request: pytest.FixtureRequest) -> Iterator[str]:
    """The queue node, with a setting under which it can lose writes; what is said of it."""
    setting, value, text = request.param
    node = project_queue().nodes[0]
    with node_settings(node, **{setting: value}):
        yield text


def test_a_node_without_a_safe_file_is_a_fault_in_every_view(wrong_setting: str) -> None:
    """The page, ``ring doctor`` and ``writebehind status`` ask the same: what the settings demand."""
    [fault] = writebehind.node_faults()
    assert wrong_setting in fault
    assert [(each.kind, each.message) for each in queue_figures().faults] == [
        (FaultKind.QUEUE_SETTINGS, fault)
    ]
    for words in (("ring", "doctor"), ("writebehind", "status")):
        assert wrong_setting in report(*words)


def test_a_node_without_a_file_exports_nothing_of_it(settings: Any) -> None:
    """There is no last write that could have succeeded."""
    settings.RINGCACHE_METRICS_TOKEN = "secret"
    name = 'ringcache_queue_node_file_written{node="queue-a"}'
    assert metrics()[name] == 1
    node = project_queue().nodes[0]
    with node_settings(node, appendonly="no"):
        assert name not in metrics()
