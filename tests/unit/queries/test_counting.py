"""The form of a query, and who is told of reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cachebackend import query_counts
from cachebackend.counters import Counters, Counts
from cachebackend.queries import counting
from cachebackend.queries.counting import CountedRead, cached_form, count_hit, count_not_cached
from cachebackend.queries.dependencies import Dependency
from cachebackend.query_counts import QueryCounts, shape_form
from cachebackend.shapes import Shape
from cacheproject.demo.models import Article

QUERY = SimpleNamespace(model=Article)


@pytest.fixture(autouse=True)
def no_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without the forms that other tests have met."""
    monkeypatch.setattr(query_counts, "_forms", {})
    monkeypatch.setattr(query_counts, "_of_shapes", {})


@pytest.fixture
def cache() -> Any:
    """What counting needs of a cache."""
    return SimpleNamespace(
        client=SimpleNamespace(counters=Counters(Counts), query_counts=Counters(QueryCounts))
    )


def dependency(column: str, value: str) -> Dependency:
    """Return what a query depends on that compares a column of articles with a value."""
    return Dependency("demo_article", Article, Shape([column], ["id"]), {column: (value,)})


def test_the_form_of_a_query_names_its_shapes_and_not_its_values() -> None:
    """Each shape once, in an order that does not depend on the query."""
    one = cached_form(QUERY, "multi", [dependency("slug", "a"), dependency("slug", "b")])
    assert (one.model, one.text) == ("demo.Article", "rows: demo_article by slug (id)")
    assert one.shapes == (shape_form("demo_article", Shape(["slug"], ["id"])).id,)
    both = [dependency("slug", "a"), dependency("price", "1")]
    assert cached_form(QUERY, "single", both) is cached_form(QUERY, "single", both[::-1])
    assert cached_form(QUERY, "single", both) is not cached_form(QUERY, "multi", both)


def test_hits_and_misses_are_those_of_the_alias(cache: Any) -> None:
    """A read that waits for another reader's load is a miss without a load; a refresh is a hit with one."""
    form = cached_form(QUERY, "multi", [dependency("slug", "a")])
    of_alias, counts = cache.client.counters.cell, cache.client.query_counts.cell[form]
    with CountedRead(cache, form):
        of_alias.misses += 1
    assert (counts.hits, counts.misses, counts.loads) == (0, 1, 0)
    with CountedRead(cache, form) as read:
        of_alias.hits += 1
        assert read.timed(lambda: "rows")() == "rows"
    assert (counts.hits, counts.misses, counts.loads) == (1, 1, 1)
    with pytest.raises(ZeroDivisionError), CountedRead(cache, form) as read:
        of_alias.misses += 1
        read.timed(lambda: 1 / 0)()
    assert (counts.hits, counts.misses, counts.loads) == (1, 2, 2)
    count_hit(cache, form)
    assert counts.hits == 2


def test_observers_are_told_what_became_of_each_read(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toolbar is one."""
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(counting, "observers", [lambda form, outcome: told.append((form.text, outcome))])
    form = cached_form(QUERY, "multi", [dependency("slug", "a")])
    count_hit(cache, form)
    with CountedRead(cache, form):
        cache.client.counters.cell.misses += 1
    count_not_cached(cache, QUERY, "a reason")
    assert told == [(form.text, "hit"), (form.text, "miss"), ("a reason", "not cached")]
