"""Figures of an alias that are computed from counts and nodes."""

from __future__ import annotations

import pytest

from cachebackend.counters import Counts
from cachebackend.monitoring.ring import AliasFigures, hit_ratio, low_sums


@pytest.mark.parametrize(("hits", "misses", "ratio"), [(3, 1, 0.75), (0, 2, 0.0), (0, 0, None)])
def test_a_hit_ratio_is_the_share_of_reads(hits: int, misses: int, ratio: float | None) -> None:
    """None, not 0, if nothing was read."""
    assert hit_ratio(Counts(hits=hits, misses=misses)) == ratio


def test_gets_per_second_are_reads_of_the_recent_minutes() -> None:
    """Hits and misses, by the length of those minutes until now."""
    recent = Counts(hits=200, misses=40)
    figures = AliasFigures("default", [], {}, recent, recent, 240.0, [])
    assert figures.gets_per_second == 1.0
    assert (figures.ring_nodes, figures.nodes_up) == ([], 0)


def test_figures_of_minutes_that_no_node_returned_are_unknown() -> None:
    """They are not zero."""
    figures = AliasFigures("default", [], {1: None}, None, None, 240.0, [])
    assert (figures.gets_per_second, hit_ratio(figures.recent)) == (None, None)


def test_sums_are_at_least_while_nodes_that_store_counts_are_away() -> None:
    """A sum that falls without a word looks as if less had happened."""
    assert low_sums([]) == ""
    assert low_sums(["b"]) == "At least: some counts are on b, which does not answer."
    assert low_sums(["b", "c"]) == "At least: some counts are on b and c, which do not answer."
