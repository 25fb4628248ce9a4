"""Figures of queries that are computed from counts by form."""

from __future__ import annotations

from cachebackend.errors import RingCacheError
from cachebackend.monitoring.queries import CachedForm, PlainForm, _figures
from cachebackend.query_counts import FormCounts, FormKind, QueryForm
from cachebackend.telemetry.query_counts import CountedForms


def counted(*forms: tuple[QueryForm, FormCounts]) -> CountedForms:
    """Return counts by the ids of their forms."""
    return {form.id: (form, counts) for form, counts in forms}


def test_the_form_that_the_database_works_for_longest_comes_first() -> None:
    """With the invalidations of all of its shapes."""
    shapes = [QueryForm(FormKind.SHAPE, "shop_product", text) for text in "xy"]
    slow = QueryForm(FormKind.CACHED, "shop.Product", "slow", [each.id for each in shapes])
    fast = QueryForm(FormKind.CACHED, "shop.Product", "fast", [shapes[0].id, "not counted"])
    figures = _figures(
        "default",
        5.0,
        lambda: counted(
            (fast, FormCounts(hits=9, misses=1, loads=1, load_micros=1000)),
            (slow, FormCounts(misses=2, loads=2, load_micros=50_000)),
            (shapes[0], FormCounts(invalidations=2)),
            (shapes[1], FormCounts(invalidations=1)),
            (QueryForm(FormKind.NOT_CACHED, "shop.Product", "rare"), FormCounts(runs=1)),
            (QueryForm(FormKind.NOT_CACHED, "shop.Product", "frequent"), FormCounts(runs=2)),
        ),
    )
    assert figures.cached == [
        CachedForm("shop.Product", "slow", 0, 2, 2, 0.05, 3),
        CachedForm("shop.Product", "fast", 9, 1, 1, 0.001, 2),
    ]
    assert [(each.hit_percent, each.mean_load_ms) for each in figures.cached] == [(0.0, 25.0), (90.0, 1.0)]
    assert figures.not_cached == [
        PlainForm("shop.Product", "frequent", 2),
        PlainForm("shop.Product", "rare", 1),
    ]
    assert (figures.since, figures.error) == (5.0, "")


def test_a_form_that_was_not_read_has_no_ratio() -> None:
    """Nor a time of a load."""
    form = CachedForm("shop.Product", "text", 0, 0, 0, 0.0, 1)
    assert (form.hit_percent, form.mean_load_ms) == (None, None)


def test_counts_that_cannot_be_read_are_an_error() -> None:
    """They are unknown, and not zero."""

    def fail() -> CountedForms:
        raise RingCacheError("node 'a' is not reachable")

    assert _figures("default", 5.0, fail).error == "node 'a' is not reachable"
