"""Where time and memory go, from what nodes report."""

from __future__ import annotations

from cachebackend.monitoring.usage import CommandFigures, GroupSize, _groups, commands_of


def test_the_most_frequent_commands_come_first() -> None:
    """Those times that a node does not report, or not as numbers, are unknown."""
    info = {
        "cmdstat_set": "calls=2,usec=20",
        "cmdstat_config|get": "calls=9,usec=90",
        "cmdstat_get": "calls=5,usec=50",
        "cmdstat_bad": "no calls",
        "latency_percentiles_usec_set": "p50=1.003,p99=12.031,p99.9=20.0",
        "latency_percentiles_usec_get": "p50=1.2.3,p99=.",
    }
    assert commands_of("a", info) == [
        CommandFigures("a", "config get", 9, None, None),
        CommandFigures("a", "get", 5, None, None),
        CommandFigures("a", "set", 2, 1.003e-06, 12.031e-06),
    ]
    texts = [each.times_text for each in commands_of("a", info)]
    assert texts == [("unknown", "unknown")] * 2 + [("1 µs", "12 µs")]


def test_the_groups_with_the_most_memory_come_first() -> None:
    """Over all nodes."""
    sizes = {"a": {b"s:1:p:1": 100, b"s:1:q:1": 50}, "b": {b"s:1:p:2": 250}}
    assert _groups(sizes) == [GroupSize("p:*", 2, 0.875, 175.0), GroupSize("q:*", 1, 0.125, 50.0)]
    assert _groups({}) == []
