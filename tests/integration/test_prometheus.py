"""The metrics for Prometheus: of all processes, and only for those who may see them."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.db.backends.utils import CursorWrapper
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse
from prometheus_client.parser import text_string_to_metric_families

from cachebackend import RingCache
from cachebackend.counters import Counts
from cachebackend.errors import NodeUnavailableError
from cachebackend.telemetry.heartbeat import record_run
from cachebackend.telemetry.processes import report_this_process
from cacheproject.demo.models import Article
from cacheproject.services import Services
from tests.fix_services import close_breakers, restart_queue

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
TOKEN = {"Authorization": "Bearer secret"}
DASHBOARD = Path(__file__).resolve().parents[2] / "docs" / "grafana.json"


@pytest.fixture(autouse=True)
def token(settings: Any) -> None:
    """The token that a scrape sends."""
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


@pytest.mark.ring_of_nodes
def test_every_counter_is_exported(ring_cache: RingCache, client: Client) -> None:
    """With its total, which never falls; and what each node received and sent."""
    ring_cache.set("k", 1)
    for key in ("k", "k", "none"):
        ring_cache.get(key)
    found = samples(client)
    assert (found["ringcache_hits_total"], found["ringcache_misses_total"]) == (2, 1)
    names = {each.name for each in fields(Counts)}
    times = {name for name in names if name.endswith("_times")}
    assert {f"ringcache_{name}_total" for name in names - times} <= found.keys()
    assert {f"ringcache_{name.removesuffix('_times')}_seconds_bucket" for name in times} <= found.keys()
    ring_cache.get("k")
    assert samples(client)["ringcache_hits_total"] == 3
    assert all(found[f"ringcache_node_{way}_bytes_total ring-a"] > 0 for way in ("received", "sent"))
    assert (
        sum(found[f"ringcache_node_keys ring-{name}"] for name in "abc") >= 2
    )  # the value, and the hashes of counts


@pytest.mark.ring_of_nodes
def test_a_dead_node_has_a_sample(ring_cache: RingCache, client: Client, services: Services) -> None:
    """The figures of other nodes stay, and so do all counts: each total is on two nodes."""
    ring_cache.get("k")
    assert samples(client)["ringcache_misses_total"] == 1
    for name in ring_cache.client.ring.names:
        services.kill(name)
        try:
            found = samples(client)
        finally:
            services.restart(name)
        assert found[f"ringcache_node_up {name}"] == 0
        assert sum(value for each, value in found.items() if each.startswith("ringcache_node_up ")) == 2
        assert found["ringcache_misses_total"] == 1
        samples(client), samples(client)  # the node is empty; a second read gives it its counts back
        close_breakers(ring_cache.client.nodes)


@pytest.mark.usefixtures("ring_cache")
@pytest.mark.ring_of_nodes
def test_a_figure_that_is_no_number_has_no_sample(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics, the page and the doctor show the rest."""
    fields = ["maxmemory", "used_memory", "keyspace_hits", "evicted_keys", "total_net_input_bytes"]
    info = dict.fromkeys(fields, "abc") | {"db0": "keys=x", "server_time_usec": "9" * 400}
    monkeypatch.setattr("cachebackend.protocol.telemetry.node_info._info", lambda _: info)
    found = samples(client)
    assert found["ringcache_node_up ring-a"] == 1
    assert not {"ringcache_node_keys ring-a", "ringcache_node_memory_bytes ring-a"} & found.keys()
    client.force_login(get_user_model().objects.create_superuser("root"))
    assert client.get(reverse("admin:cachebackend_ring_changelist")).status_code == 200
    for action in ("status", "doctor"):
        with contextlib.suppress(SystemExit, CommandError):
            call_command("ring", action, stdout=StringIO())


@pytest.mark.postgres
def test_a_queue_that_does_not_answer_has_no_samples(client: Client, services: Services) -> None:
    """A 0 would look well, and a total that fell to 0 would rise again when the node is back."""
    found = samples(client)
    assert (found["ringcache_queue_node_up queue-a"], found["ringcache_behind_waiting"]) == (1, 0)
    assert {"ringcache_behind_rows_total", "ringcache_drain_seconds_count"} <= found.keys()
    assert found["ringcache_behind_waiting_bytes"] == 0
    Article.behind.update(1, views=7)
    assert samples(client)["ringcache_behind_waiting_bytes"] > 0
    services.kill("queue-a")
    try:
        with pytest.raises(NodeUnavailableError):
            Article.behind.update(1, views=7)
        found = samples(client)
    finally:
        restart_queue(services)
    assert found["ringcache_queue_node_up queue-a"] == 0
    unknown = ("waiting", "waiting_bytes", "oldest_seconds")
    assert not {f"ringcache_behind_{name}" for name in unknown} & found.keys()
    assert (found["ringcache_behind_parked"], found["ringcache_outbox_up"]) == (0, 1)
    failed = [found[f"ringcache_behind_{outcome}_total"] for outcome in ("refused", "unknown")]
    assert (found["ringcache_behind_accepted_total"], sum(failed)) == (1, 1)


def test_a_database_that_does_not_answer_has_no_samples(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pending deletes and no parked writes; queued writes are known, and drained rows are counted."""

    def refuse(*_: Any) -> None:
        raise OperationalError("the connection is closed")

    assert samples(client)["ringcache_outbox_up"] == 1
    monkeypatch.setattr(CursorWrapper, "execute", refuse)
    found = samples(client)
    assert found["ringcache_outbox_up"] == 0
    unknown = ("outbox_lag_seconds", "outbox_rows", "behind_parked")
    assert not {f"ringcache_{name}" for name in unknown} & found.keys()
    assert "ringcache_behind_rows_total" in found
    assert (found["ringcache_queue_node_up queue-a"], found["ringcache_behind_waiting"]) == (1, 0)


@pytest.mark.ring_of_nodes
def test_processes_are_counted_by_kind_and_settings(client: Client) -> None:
    """With how many differ, and how many do not reach each node."""
    report_this_process()
    text = client.get("/metrics/", headers=TOKEN).content.decode()
    [(kind, number)] = re.findall(r'ringcache_processes{kind="([\w+]+)",settings="\w{8}",.* (\d)', text)
    assert (kind in {"command", "web"}, number) == (True, "1")
    assert "ringcache_processes_differing 0.0" in text
    assert 'ringcache_node_processes_without{alias="default",node="ring-a"} 0.0' in text


def test_others_are_refused(client: Client, settings: Any) -> None:
    """A wrong token, an empty one, none, and users without the permission."""
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


def test_the_dashboard_uses_metrics_that_exist(client: Client) -> None:
    """No expression sums over processes: each process exports the figures of all."""
    record_run("tick")
    Article.cached.filter(price=1).count()
    list(Article.cached.annotate(now=Now()))
    found = {name.partition(" ")[0] for name in samples(client)}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(expressions) > 8
    for expression in expressions:
        names = re.findall(r"ringcache_\w+", expression)
        assert names
        assert set(names) <= found, expression
        assert "sum" not in expression
