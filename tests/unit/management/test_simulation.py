"""Simulated hit ratios of caches of several sizes for a trace."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from cachebackend.management import simulation
from cachebackend.management.simulation import advice, curves, default_sizes, miss_ratio_chart, sampled
from cachebackend.management.traces import Trace

SIZES = [10, 20, 100]
FOUND = {"LRU": [0.1, 0.4, 0.5], "S3-FIFO": [0.3, 0.5, 0.5]}


def test_sizes_are_shares_of_the_different_keys() -> None:
    """From a hundredth to all, each once, and none is 0."""
    assert default_sizes(Trace.of_reads(range(1000))) == [10, 20, 50, 100, 200, 500, 1000]
    assert default_sizes(Trace.of_reads([1, 1, 2])) == [1, 2]


def test_a_short_trace_is_not_sampled() -> None:
    """Its rate is 1."""
    trace = Trace.of_reads([1, 2, 1])
    assert sampled(trace) == (trace, 1.0)


def test_every_policy_has_a_hit_ratio_for_each_size() -> None:
    """A cache of all keys hits every key that came before; progress is reported for each policy."""
    trace = Trace.of_reads([number % 50 for number in range(500)])
    reported: list[str] = []
    ratios_by_policy = curves(trace, [10, 50], 1.0, reported.append)
    assert {"LRU", "LFU", "W-TinyLFU", "S3-FIFO", "Redis LRU", "Redis LFU"} <= ratios_by_policy.keys()
    assert {ratios[1] for ratios in ratios_by_policy.values()} == {0.9}
    assert len(reported) == len(ratios_by_policy)


@pytest.mark.parametrize(
    ("keep", "entry_bytes", "says"),
    [
        (1.0, None, "20 entries with S3-FIFO keep 100% of the 50.0% of reads that hit with 100 entries; LRU"),
        (0.5, None, "10 entries with S3-FIFO keep 50%"),
        (0.8, 1e6, "20 entries (about 20 MB) with LRU or S3-FIFO keep 80%"),
    ],
)
def test_the_advice_is_the_smallest_size_that_keeps_a_share_of_the_hits(
    keep: float, entry_bytes: float | None, says: str
) -> None:
    """With the policies for which this size is enough, and the memory if it is known."""
    assert says in advice(SIZES, FOUND, keep, entry_bytes)


def test_a_trace_without_a_repeated_key_needs_no_cache() -> None:
    """The advice says so."""
    assert "a cache of any size has no hits" in advice([1], {"LRU": [0.0]}, 0.9)


def test_the_chart_has_a_line_for_each_policy() -> None:
    """And is a well-formed SVG file."""
    root = ET.fromstring(miss_ratio_chart(SIZES, FOUND))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}polyline")) == 2
    assert {"LRU", "S3-FIFO", "100"} <= {each.text for each in root.iter(f"{space}text")}


def test_a_long_trace_is_sampled_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that is smaller by the same share has about the same hit ratio; writes stay with their keys."""
    monkeypatch.setattr(simulation, "MAX_REQUESTS", 10_000)
    trace = Trace.of_reads(
        [(number * number) % 4001 if number % 2 else number % 400 for number in range(40_000)]
    )
    trace.writes[:] = bytes(block % 2 for block in trace.blocks)
    thinned, rate = simulation.sampled(trace)
    assert rate == 0.25
    assert 5_000 < len(thinned) < 15_000
    assert list(thinned.writes) == [block % 2 for block in thinned.blocks]
    whole = simulation.curves(trace, [2000], 1.0, lambda _: None)["LRU"]
    part = simulation.curves(thinned, [2000], rate, lambda _: None)["LRU"]
    assert part == pytest.approx(whole, abs=0.1)
