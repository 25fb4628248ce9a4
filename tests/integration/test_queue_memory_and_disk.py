"""Queue nodes that answer and refuse writes: their memory is full, or they cannot write to their disk.

The page, the metrics and the commands say so at once, and not that no worker runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db.models import F
from django.test import Client, override_settings
from django.urls import reverse

from cachebackend import uuid7
from cachebackend.errors import NodeUnavailableError
from cachebackend.monitoring import queue_figures
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.telemetry.heartbeat import record_run
from cachebackend.writebehind.queue import project_queue
from cacheproject.services import Services
from tests.integration.test_prometheus import TOKEN
from tests.integration.write_behind import command, drain_all
from tests.node_settings import node_settings
from tests.shop.models import Meter

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
#: A device on which every write fails because it is full.
FULL_DEVICE = Path("/dev/full")


@pytest.fixture
def full_memory() -> Iterator[str]:
    """The queue node, with a limit to its memory that it has reached; its name."""
    node = project_queue().nodes[0]
    Meter.behind.update(uuid7(), count=F("count") + 1)
    with node_settings(node, maxmemory="1mb"):
        yield node.name


@pytest.fixture
def full_disk(services: Services) -> Iterator[str]:
    """Another queue node, whose append-only file cannot grow; its name."""
    if not FULL_DEVICE.exists():
        pytest.skip("this system has no /dev/full")
    services.add_node("queue-disk", "--appendonly", "no", "--save", "", "--maxmemory-policy", "noeviction")
    nodes = [services.node_url("queue-disk")]
    try:
        with override_settings(WRITE_BEHIND=settings.WRITE_BEHIND | {"nodes": nodes}):
            Meter.behind.update(uuid7(), count=F("count") + 1)
            folder = services.folder / "queue-disk" / "appendonlydir"
            folder.mkdir()
            (folder / "temp-appendonly.aof.incr").symlink_to(FULL_DEVICE)
            node = project_queue().nodes[0]
            node.call((b"CONFIG", b"SET", b"appendonly", b"yes"))
            yield node.name
    finally:
        services.kill("queue-disk")


def fails() -> None:
    """Write until the node refuses a write."""
    with pytest.raises(NodeUnavailableError):
        for _ in range(50):
            Meter.behind.update(uuid7(), count=F("count") + 1)


def metrics() -> dict[str, float]:
    """Return the samples of a scrape that have no label but the node."""
    text = Client().get("/metrics/", headers=TOKEN).content.decode()
    lines = [line.split(" ") for line in text.splitlines() if line.startswith("ringcache_")]
    return {name: float(value) for name, value in (line[:2] for line in lines if len(line) == 2)}


def report(*words: str) -> str:
    """Return what a command that exits with 1 prints."""
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command(*words, stdout=out)
    return " ".join(out.getvalue().split())


def shown() -> str:
    """Return the ring page."""
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root"))
    return client.get(reverse("admin:cachebackend_ring_changelist")).content.decode()


@pytest.fixture(autouse=True)
def running(settings: Any, empty_nodes: None) -> None:
    """A worker that runs, and metrics that may be scraped."""
    settings.RINGCACHE_METRICS_TOKEN = "secret"
    record_run("tick")
    record_run("relay")


def test_a_node_whose_memory_is_full_is_named(full_memory: str) -> None:
    """Its memory and the limit are shown; its queue is still drained, so nothing waits for a worker."""
    fails()
    text = f"ueue node {full_memory} is full, so it refuses writes"
    kinds = {fault.kind: fault for fault in queue_figures().faults}
    assert kinds.keys() == {FaultKind.QUEUE_NODE_FULL, FaultKind.WRITES_REFUSED}
    assert text in kinds[FaultKind.QUEUE_NODE_FULL].message
    page = shown()
    assert text in page
    assert "of 1.0\N{NO-BREAK SPACE}MB" in page
    assert text in report("ring", "doctor")
    assert text in report("writebehind", "status")
    found = metrics()
    label = f'{{node="{full_memory}"}}'
    assert found[f"ringcache_queue_node_max_memory_bytes{label}"] == 1024**2
    assert found[f"ringcache_queue_node_memory_bytes{label}"] > 1024**2
    assert found["ringcache_behind_refused_total"] == 1
    assert sum(drained.batches for drained in drain_all()) == 1


def test_a_node_whose_disk_is_full_is_named(full_disk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the reason, too, why what it holds is not drained: a drain must store the seal of its batch."""
    fails()
    text = "refuses writes: it cannot write its append-only file"
    assert f"Queue node {full_disk} {text}" in shown()
    for words in (("ring", "doctor"), ("writebehind", "status")):
        assert text in report(*words)
    assert metrics()[f'ringcache_queue_node_file_written{{node="{full_disk}"}}'] == 0
    monkeypatch.setattr("cachebackend.monitoring.reasons.max_waiting_age", lambda _: -1.0)
    reasons = {each["kind"] for each in command("status", code=1)["reasons"]}
    assert reasons == {"refusing"}
    kinds = {fault.kind for fault in queue_figures().faults}
    assert FaultKind.WRITES_WAIT not in kinds
