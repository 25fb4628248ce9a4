"""The panel for django-debug-toolbar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db.models.functions import Now
from django.test import RequestFactory

from cachebackend import RingCache, query_counts
from cachebackend.backend import ring_cache as cache_of
from cachebackend.managers import CachedManager
from cachebackend.queries import construction, counting, plans
from cachebackend.queries.queryset import CachedQuerySet
from cacheproject.demo.models import Article

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("empty_nodes"),
]


@pytest.fixture
def panel(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An enabled panel; the methods that it wraps are restored."""
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "debug_toolbar"]
    from debug_toolbar.toolbar import DebugToolbar

    from cachebackend import toolbar

    monkeypatch.setattr(toolbar, "observers", observers := [])
    monkeypatch.setattr(counting, "observers", observers)
    wrapped: list[tuple[type[Any], Any]] = [
        (RingCache, toolbar._CACHE_CALLS),
        (CachedManager, toolbar._MANAGER_CALLS),
        (CachedQuerySet, toolbar._QUERYSET_CALLS),
    ]
    for owner, names in wrapped:
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))
    toolbar.RingPanel.ready()
    request = RequestFactory().get("/")
    bar = DebugToolbar(request, lambda _: None)
    panel = toolbar.RingPanel(bar, lambda _: None)
    panel.enable_instrumentation()
    yield panel
    panel.disable_instrumentation()


def test_our_calls_are_shown_beside_djangos(panel: Any) -> None:
    """Each call once, without the calls that it makes in turn."""
    Article.objects.create(pk=1, slug="x", title="X")
    panel.calls.clear()
    cache = cache_of("default")
    Article.cached.get(pk=1)
    Article.cached.in_bulk([1])
    cache.pttl("k")
    cache.get_or_set_many(["a"], lambda keys: dict.fromkeys(keys, 1))
    cache.get("k")
    names = [(call["name"], call["backend"]) for call in panel.calls]
    assert names == [
        ("cached.get", "demo.Article"),
        ("cached.in_bulk", "demo.Article"),
        ("pttl", "RingCache"),
        ("get_or_set_many", "RingCache"),
        ("get", "default (RingCache)"),
    ]
    assert all(call["time"] > 0 for call in panel.calls)


def test_nothing_is_recorded_while_the_panel_is_disabled(panel: Any) -> None:
    """The calls return their results all the same."""
    panel.disable_instrumentation()
    assert cache_of("default").pttl("k") == 0
    assert panel.calls == []


def test_evaluations_of_cached_querysets_are_shown_with_what_they_read(
    panel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once: neither the rows that it reads by key, nor a second use of its rows, is shown."""
    for name in ("_forms", "_of_shapes"):  # a process shows the first 200 forms by themselves
        monkeypatch.setattr(query_counts, name, {})
    for module in (plans, construction):
        module._forget()
    Article.objects.create(pk=1, slug="x", title="X")
    panel.calls.clear()
    panel.hits = panel.misses = 0
    for _ in range(2):
        articles = Article.cached.filter(title="X").order_by("pk")
        assert [each.pk for each in articles] == [1]
        assert len(articles) == 1
    Article.cached.filter(title="X").count()
    list(Article.cached.annotate(now=Now()))
    shown = [(call["name"], call["backend"], call["kwargs"]["read"]) for call in panel.calls]
    rows, count = "rows: demo_article by title (id)", "one row: demo_article by title"
    assert shown == [
        ("cached.rows", "demo.Article", [f"miss: {rows}"]),
        ("cached.rows", "demo.Article", [f"hit: {rows}"]),
        ("cached.count", "demo.Article", [f"miss: {count}"]),
        (
            "cached.rows",
            "demo.Article",
            ["not cached: Now() has another value each time that the query runs"],
        ),
    ]
    assert (panel.hits, panel.misses) == (1, 2)
    assert panel.counts["cached.rows"] == 3
