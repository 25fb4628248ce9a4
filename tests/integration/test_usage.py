"""Where time and memory go: by group of keys, the hottest and the biggest keys, and the commands of nodes."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from cachebackend import RingCache
from cachebackend.counters import TIMED_ONE_IN
from cachebackend.monitoring import query_figures
from cachebackend.monitoring.usage import usage_figures
from cacheproject.demo.models import Article
from cacheproject.services import Services
from tests.fix_services import close_breakers
from tests.integration.test_prometheus import TOKEN

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


def command(*words: str) -> dict[str, Any]:
    out = StringIO()
    call_command("ring", *words, "--json", stdout=out)
    found: dict[str, Any] = json.loads(out.getvalue())["aliases"]["default"]
    return found


def test_reads_and_loads_are_counted_by_model_and_by_prefix(
    ring_cache: RingCache, client: Client, settings: Any
) -> None:
    """One get in 64 is counted, and each load with its time."""
    settings.RINGCACHE_METRICS_TOKEN = "secret"
    article = Article.objects.create(slug="s")
    for _ in range(3 * TIMED_ONE_IN):
        Article.cached.get(pk=article.pk)
    for number in range(2 * TIMED_ONE_IN):
        ring_cache.get_or_set(f"product:{number}", lambda: 1)
    keys = {each.model: each for each in query_figures("default").keys}
    rows, products = keys["demo_article"], keys["product:*"]
    assert rows.loads == 1
    assert rows.hits in {2 * TIMED_ONE_IN, 3 * TIMED_ONE_IN}
    assert (products.loads, products.hits) == (2 * TIMED_ONE_IN, 0)
    assert products.load_seconds > 0
    [shown] = [each for each in command("queries")["keys"] if each["model"] == "product:*"]
    assert shown["loads"] == products.loads
    text = client.get("/metrics/", headers=TOKEN).content.decode()
    assert f'ringcache_key_loads_total{{alias="default",keys="product:*"}} {products.loads}.0' in text
    client.force_login(get_user_model().objects.create_superuser("root"))
    assert "product:*" in client.get(reverse("admin:cachebackend_ring_changelist")).content.decode()


def test_the_hottest_and_the_biggest_keys_are_named(ring_cache: RingCache, client: Client) -> None:
    """By all processes: what this one sampled is published first."""
    ring_cache.set("hot:1", "x")
    ring_cache.set("big:1", "y" * 100_000)
    for _ in range(4 * TIMED_ONE_IN):
        ring_cache.get("hot:1")
    figures = usage_figures("default")
    assert list(figures.hottest) == ["demo:1:hot:1"]
    assert figures.hottest["demo:1:hot:1"] >= 3 * TIMED_ONE_IN
    assert (figures.biggest[0].key, figures.biggest[0].size > 1000) == ("demo:1:big:1", True)
    assert figures.groups[0].group == "big:*"
    assert {node.name for node in ring_cache.client.nodes} == {each.node for each in figures.commands}
    report = command("usage", "--samples", "50")
    assert report["biggest"][0]["key"] == "demo:1:big:1"
    client.force_login(get_user_model().objects.create_superuser("root"))
    url = reverse("admin:cachebackend_ring_changelist")
    assert "demo:1:big:1" in client.get(f"{url}?usage=1").content.decode()
    assert "demo:1:big:1" not in client.get(url).content.decode()


@pytest.mark.ring_of_nodes
def test_a_node_that_is_down_is_named(ring_cache: RingCache, services: Services) -> None:
    """The others are shown."""
    ring_cache.set_many({f"k:{number}": 1 for number in range(30)})
    services.kill("ring-a")
    try:
        figures = usage_figures("default")
        out = StringIO()
        with pytest.raises(SystemExit):
            call_command("ring", "usage", "--json", stdout=out)
    finally:
        services.restart("ring-a")
    close_breakers(ring_cache.client.nodes)
    assert {each.node for each in figures.commands} == {"ring-b", "ring-c"}
    assert figures.sampled > 0
    assert list(figures.unanswered) == ["ring-a"]
    assert list(json.loads(out.getvalue())["aliases"]["default"]["unanswered"]) == ["ring-a"]
