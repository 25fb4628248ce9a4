"""What Prometheus scrapes: of all processes, and only for those who may see it."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import OperationalError
from django.db.backends.utils import CursorWrapper
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from cachebackend import RingCache
from cachebackend.counters import Counts
from cachebackend.telemetry.heartbeat import record_run
from cacheproject.services import Services
from tests.fix_services import restart_queue

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
TOKEN = {"Authorization": "Bearer secret"}
DASHBOARD = Path(__file__).resolve().parents[2] / "docs" / "grafana.json"


@pytest.fixture(autouse=True)
def token(settings: Any) -> None:
    """A token that scrapers send."""
    settings.RINGCACHE_METRICS_TOKEN = "secret"


def samples(client: Client) -> dict[str, float]:
    """Return the samples of the default alias by name and node."""
    response = client.get("/metrics/", headers=TOKEN)
    assert response.status_code == 200, response.content
    return {
        f"{sample.name} {sample.labels.get('node', '')}".strip(): sample.value
        for family in text_string_to_metric_families(response.content.decode())
        for sample in family.samples
        if sample.labels.get("alias", "default") == "default"
    }


def test_every_counter_is_told_of_all_processes(ring_cache: RingCache, client: Client) -> None:
    """They only ever rise."""
    ring_cache.set("k", 1)
    for key in ("k", "k", "none"):
        ring_cache.get(key)
    told = samples(client)
    assert (told["ringcache_hits_total"], told["ringcache_misses_total"]) == (2, 1)
    names = {each.name for each in fields(Counts)}
    times = {name for name in names if name.endswith("_times")}
    assert {f"ringcache_{name}_total" for name in names - times} <= told.keys()
    assert {f"ringcache_{name.removesuffix('_times')}_seconds_bucket" for name in times} <= told.keys()
    ring_cache.get("k")
    assert samples(client)["ringcache_hits_total"] == 3
    assert all(told[f"ringcache_node_{way}_bytes_total ring-a"] > 0 for way in ("received", "sent"))
    assert sum(told[f"ringcache_node_keys ring-{name}"] for name in "abc") >= 2  # the value, and the counts


def test_a_node_that_is_gone_is_told(ring_cache: RingCache, client: Client, services: Services) -> None:
    """The others' figures stay; only the counts are missing when the one that keeps them is gone."""
    keeps = ring_cache.client.ring.owner(b"ringcache:counts:demo:default:all")
    ring_cache.get("k")
    assert samples(client)["ringcache_misses_total"] == 1
    for number, name in enumerate(ring_cache.client.ring.names):
        services.kill(name)
        try:
            told = samples(client)
        finally:
            services.restart(name)
        assert told[f"ringcache_node_up {name}"] == 0
        assert sum(value for each, value in told.items() if each.startswith("ringcache_node_up")) == 2
        assert ("ringcache_misses_total" in told) is (number != keeps)
        for node in ring_cache.client.nodes:
            assert node.breaker is not None
            node.breaker.close()


def test_what_the_queue_does_not_tell_is_not_told(client: Client, services: Services) -> None:
    """A nought would look well, and a sum that falls to it would rise again when the node is back."""
    told = samples(client)
    assert (told["ringcache_queue_node_up queue-a"], told["ringcache_behind_waiting"]) == (1, 0)
    assert {"ringcache_behind_rows_total", "ringcache_drain_seconds_count"} <= told.keys()
    services.kill("queue-a")
    try:
        told = samples(client)
    finally:
        restart_queue(services)
    assert told["ringcache_queue_node_up queue-a"] == 0
    unknown = ("waiting", "oldest_seconds", "rows_total")
    assert not {f"ringcache_behind_{name}" for name in unknown} & told.keys()
    assert (told["ringcache_behind_parked"], told["ringcache_outbox_up"]) == (0, 1)


def test_what_the_database_does_not_tell_is_not_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what is owed nor what landed; what waits is the queue's to tell."""

    def refuse(*_: Any) -> None:
        raise OperationalError("the connection is closed")

    assert samples(client)["ringcache_outbox_up"] == 1
    monkeypatch.setattr(CursorWrapper, "execute", refuse)
    told = samples(client)
    assert told["ringcache_outbox_up"] == 0
    unknown = ("outbox_lag_seconds", "outbox_rows", "behind_parked", "behind_rows_total")
    assert not {f"ringcache_{name}" for name in unknown} & told.keys()
    assert (told["ringcache_queue_node_up queue-a"], told["ringcache_behind_waiting"]) == (1, 0)


def test_nobody_else_may_see_it(client: Client, settings: Any) -> None:
    """Neither strangers, nor users without the permission, nor without a token those who send none."""
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": ""}):
        assert client.get("/metrics/", headers=headers).status_code == 403
    settings.RINGCACHE_METRICS_TOKEN = ""
    assert client.get("/metrics/", headers={"Authorization": "Bearer "}).status_code == 403
    user = get_user_model().objects.create_user("u", password="p", is_staff=True)
    client.force_login(user)
    assert client.get("/metrics/").status_code == 403
    client.force_login(get_user_model().objects.create_superuser("s", password="p"))
    assert client.get("/metrics/").status_code == 200
    assert client.post("/metrics/").status_code == 405


def test_the_dashboard_asks_for_what_there_is(client: Client) -> None:
    """Each expression names metrics that are exported, and adds none up over those that export them.

    Every process exports the figures of all, so a sum over processes tells of more than there is.
    """
    record_run("tick")
    told = {name.partition(" ")[0] for name in samples(client)}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(expressions) > 8
    for expression in expressions:
        names = re.findall(r"ringcache_\w+", expression)
        assert names
        assert set(names) <= told, expression
        assert "sum" not in expression
