"""What Prometheus scrapes: of all processes, and only for those who may see it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from cachebackend import RingCache
from cachebackend.stats import Counts
from cacheproject.services import Services

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
    assert {f"ringcache_{name}_total" for name in Counts().as_dict()} <= told.keys()
    ring_cache.get("k")
    assert samples(client)["ringcache_hits_total"] == 3
    assert sum(told[f"ringcache_node_keys ring-{name}"] for name in "abc") >= 2  # the value, and the counts


def test_a_node_that_is_gone_is_told(ring_cache: RingCache, client: Client, services: Services) -> None:
    """The others' figures stay; without the one that keeps the counts there are none."""
    keeps = ring_cache.client.ring.owner(b"ringcache:counts:default:all")
    for number, name in enumerate(ring_cache.client.ring.names):
        services.kill(name)
        try:
            response = client.get("/metrics/", headers=TOKEN)
        finally:
            services.restart(name)
        told = response.content.decode()
        if number == keeps:
            assert (response.status_code, name in told) == (503, True)
        else:
            assert f'ringcache_node_up{{alias="default",node="{name}"}} 0.0' in told
            assert told.count('ringcache_node_up{alias="default"') == 3
        for node in ring_cache.client.nodes:
            assert node.breaker is not None
            node.breaker.close()


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
    """Each expression of the Grafana dashboard names metrics that are exported."""
    told = {name.partition(" ")[0] for name in samples(client)}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(expressions) > 8
    for expression in expressions:
        names = re.findall(r"ringcache_\w+", expression)
        assert names
        assert set(names) <= told, expression
