"""What is counted of cached queries: by form, over all processes, and shown by a command."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from django.core.management import call_command
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse

from cachebackend import RingCache, query_counts
from cachebackend.queries import construction, counting, plans
from cachebackend.query_counts import FormCounts, FormKind
from cachebackend.telemetry.publisher import publish_counts
from cachebackend.telemetry.query_counts import hourly_query_counts, total_query_counts
from cacheproject.services import Services
from tests.zoo.models import Author, Poem

pytestmark = [pytest.mark.django_db(transaction=True)]
#: The forms of these tests.
OF_AUTHOR = "rows: zoo_poem by author_id (id, rank)"
COUNT = "one row: zoo_poem by rank"


@pytest.fixture(autouse=True)
def cache(ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch) -> RingCache:
    """The cache on empty nodes, in a process that has met no form: it counts the first 200 by themselves."""
    for name in ("_forms", "_of_shapes"):
        monkeypatch.setattr(query_counts, name, {})
    for module in (plans, construction):
        module._forget()
    return ring_cache


@pytest.fixture
def author() -> Author:
    author = Author.objects.create(name="a")
    Poem.objects.create(name="p", author=author, rank=1)
    return author


def cached() -> Any:
    """Return a queryset of poems."""
    return Poem.cached.all()


def counted(kind: FormKind = FormKind.CACHED) -> dict[str, FormCounts]:
    """Return the published counts of the forms of a kind, by text."""
    publish_counts("default")
    return {
        form.text: counts
        for form, counts in hourly_query_counts("default", 2).values()
        if form.kind is kind and (counts.hits or counts.misses or counts.runs or counts.invalidations)
    }


def test_reads_are_counted_by_form(author: Author) -> None:
    """Two authors have one form: values do not count."""
    other = Author.objects.create(name="b")
    for each in (author, author, other):
        list(cached().filter(author=each).order_by("rank"))
    cached().filter(rank=1).count()
    found = counted()
    assert set(found) == {OF_AUTHOR, COUNT}
    of_author = found[OF_AUTHOR]
    assert (of_author.hits, of_author.misses, of_author.loads) == (1, 2, 2)
    assert of_author.load_micros > 0
    assert (found[COUNT].misses, found[COUNT].hits) == (1, 0)


def test_what_writes_invalidate_is_counted_by_shape(author: Author) -> None:
    """One tag for each value, old or new; no tag if no result depends on the column."""
    list(cached().filter(author=author).order_by("rank"))
    shape = "zoo_poem by author_id (id, rank)"
    for changes, count in (
        ({"rank": 2}, 1),
        ({"author": Author.objects.create(name="b")}, 3),
        ({"name": "q"}, 3),
    ):
        Poem.objects.filter(rank__gt=0).update(**changes)
        assert {text: each.invalidations for text, each in counted(FormKind.SHAPE).items()} == {shape: count}


def test_queries_that_are_not_cached_are_counted_and_logged_once(
    author: Author, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason, by model."""
    monkeypatch.setattr(counting, "_logged", set())
    with caplog.at_level(logging.INFO, "cachebackend"):
        for _ in range(3):
            list(cached().annotate(now=Now()).filter(name="p"))
    [(reason, counts)] = counted(FormKind.NOT_CACHED).items()
    assert "Now() has another value each time" in reason
    assert counts.runs == 3
    [record] = [each for each in caplog.records if getattr(each, "event", "") == "query_not_cached"]
    assert (record.model, record.levelname) == ("zoo.Poem", "INFO")


def test_the_total_is_what_all_hours_have(author: Author) -> None:
    """It is published separately, on one node."""
    cached().filter(rank=1).count()
    hours = counted()
    assert {form.text: counts for form, counts in total_query_counts("default").values()}.items() >= (
        hours.items()
    )


def test_a_hit_that_is_not_compiled_is_counted_too(author: Author) -> None:
    """A manager's queryset that is made in a known way is read without building its query."""
    for _ in range(4):
        list(Poem.cached.filter(author=author).order_by("rank"))
        Poem.cached.filter(rank=1).count()
    assert {text: (each.hits, each.misses) for text, each in counted().items()} == {
        OF_AUTHOR: (3, 1),
        COUNT: (3, 1),
    }


def test_the_command_prints_the_same(author: Author, capsys: pytest.CaptureFixture[str]) -> None:
    """As a table, or as JSON."""
    for _ in range(2):
        list(cached().filter(author=author).order_by("rank"))
        list(cached().annotate(now=Now()).filter(name="p"))
    call_command("ring", "queries")
    printed = capsys.readouterr().out
    assert "zoo.Poem" in printed
    assert "invalidations" in printed
    call_command("ring", "queries", "--hours", "1", "--json")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["aliases"]["default"]
    [form] = found["cached"]
    assert (form["model"], form["text"], form["hits"], form["misses"]) == ("zoo.Poem", OF_AUTHOR, 1, 1)
    [plain] = found["not_cached"]
    assert (plain["model"], plain["runs"]) == ("zoo.Poem", 2)


def test_the_page_lists_forms_and_what_is_not_cached(author: Author, admin_client: Client) -> None:
    """With the reason; and an alias that nothing has read says so."""
    url = reverse("admin:cachebackend_ring_changelist")
    assert "None was read." in admin_client.get(url).content.decode()
    for _ in range(2):
        list(cached().filter(author=author).order_by("rank"))
    list(cached().annotate(now=Now()).filter(name="p"))
    page = admin_client.get(url).content.decode()
    assert f'<td class="text" data-label="Depends on">{OF_AUTHOR}</td>' in page
    assert "50.0 %" in page
    assert "Now() has another value each time that the query runs" in page


@pytest.mark.ring_of_nodes
def test_the_page_stays_up_without_the_nodes_of_the_counts(
    author: Author, admin_client: Client, services: Services
) -> None:
    """It says that the counts are unknown."""
    cached().filter(rank=1).count()
    for name in ("ring-a", "ring-b", "ring-c"):
        services.kill(name)
    try:
        page = admin_client.get(reverse("admin:cachebackend_ring_changelist")).content.decode()
        with pytest.raises(SystemExit):
            call_command("ring", "queries")
    finally:
        for name in ("ring-a", "ring-b", "ring-c"):
            services.restart(name)
    assert "unknown: " in page


def test_the_metrics_have_the_same_counts(author: Author, admin_client: Client) -> None:
    """With labels for the model, and for what the results depend on or why they are not cached."""
    for _ in range(2):
        list(cached().filter(author=author).order_by("rank"))
    list(cached().annotate(now=Now()).filter(name="p"))
    Poem.objects.filter(name="p").update(rank=5)
    text = admin_client.get("/metrics/").content.decode()
    labels = f'{{alias="default",model="zoo.Poem",query="{OF_AUTHOR}"}}'
    for name, count in {"hits": 1, "misses": 1, "loads": 1, "invalidations": 1}.items():
        assert f"ringcache_query_{name}_total{labels} {count}.0\n" in text
    assert f"ringcache_query_load_seconds_total{labels} 0." in text
    assert 'ringcache_queries_not_cached_total{alias="default",model="zoo.Poem",reason="Now() has' in text


def test_a_form_for_whose_shapes_the_registry_has_no_room_shows_it(
    author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results depend on all columns, and each change of the table counts as an invalidation of it."""
    monkeypatch.setattr("cachebackend.protocol.cache.shapes.MAX_SHAPES", 0)
    for _ in range(3):
        cached().filter(rank=1).count()
    Poem.objects.filter(name="p").update(name="q")
    all_columns = "one row: zoo_poem (all columns)"
    assert (counted()[all_columns].hits, counted()[all_columns].misses) == (1, 1)
    assert counted(FormKind.SHAPE)["zoo_poem (all columns)"].invalidations == 1
