"""Scanning keys by pattern, one page of each node at a time."""

from __future__ import annotations

import pytest

from cachebackend.codec import HEAD_BYTES, Refresh, tag_block_span
from cachebackend.errors import NodeUnavailableError
from cachebackend.protocol.cache.scan import KeyScan, all_cursors, scan
from cachebackend.protocol.rounds import Cursor
from cachebackend.ring import CLUSTER_SLOTS, ClusterRing
from tests.unit.protocol.stepping import DOWN, TOKEN, context_of, step

OLD_TOKEN = b"o" * 16


def test_a_page_contains_the_keys_with_values() -> None:
    """Leases, quarantines, tags, stale values and keys that no longer exist are left out."""
    context = context_of("a", "b")
    replies = [[b"7", [b"k1", b"k2", b"k3"]], [b"0", [b"k4", b"k5", b"k6", b"k7"]]]
    firsts = [b"V", b"L", b"5", b"Q", b"T", b"S", b""]
    (keys, cursors), requests = step(scan(context, b"*", all_cursors(context), 10), replies, firsts)
    assert keys == [b"k1", b"k3"]
    assert {node: cursor.text for node, cursor in cursors.items()} == {0: b"7"}
    options = b"MATCH", b"*", b"COUNT", b"10", b"TYPE", b"string"
    assert requests[0] == [(node, (b"SCAN", b"0", *options)) for node in (0, 1)]
    assert requests[1][0] == (0, (b"GETRANGE", b"k1", b"0", b"%d" % (HEAD_BYTES - 1)))


def test_values_whose_time_is_over_or_whose_tags_have_changed_are_left_out() -> None:
    """For the tags, only the tag blocks are read, and each tag once."""
    context = context_of("a")
    now = context.clock.now()
    tags = {"fresh": {b"t": OLD_TOKEN, b"u": TOKEN}, "changed": {b"t": TOKEN}, "gone": {b"v": TOKEN}}
    records = {
        "over": context.codec.encode(1, b"", Refresh(now, 1.0)),
        "fresh": context.codec.encode("long" * 100, b"", Refresh(now + 1, 1.0), tags["fresh"]),
        "changed": context.codec.encode(1, b"", None, tags["changed"]),
        "gone": context.codec.encode(1, b"", None, tags["gone"]),
        "damaged": b"Vm\x02\xff",
    }
    spans = {key: tag_block_span(record[:HEAD_BYTES]) for key, record in records.items() if key in tags}
    (keys, _), requests = step(
        scan(context, b"*", all_cursors(context), 10),
        [[b"0", [key.encode() for key in records]]],
        [record[:HEAD_BYTES] for record in records.values()],
        [*[records[key][begin:end] for key, (begin, end) in spans.items()], b"\xff"],
        [[b"T" + OLD_TOKEN, b"T" + TOKEN, None]],
    )
    assert keys == [b"fresh"]
    assert requests[3] == [(0, (b"MGET", b"t", b"u", b"v"))]


def test_an_empty_page_costs_one_round_trip() -> None:
    """And only nodes that have more pages are asked again."""
    context = context_of("a", "b")
    (keys, cursors), requests = step(scan(context, b"x*", {1: Cursor(b"9")}, 5), [[b"0", []]])
    assert (keys, cursors) == ([], {})
    assert requests == [[(1, (b"SCAN", b"9", b"MATCH", b"x*", b"COUNT", b"5", b"TYPE", b"string"))]]


def test_the_nodes_of_a_ring_are_scanned_once() -> None:
    """Each of their keys stays where it is."""
    context = context_of("a", "b")
    found = KeyScan(context, b"*", 5)
    assert step(found.page(), [[b"0", [b"k"]], [b"0", []]], [b"V"])[0] == [b"k"]
    assert found.is_over


def test_a_cluster_is_scanned_twice() -> None:
    """A key may move from a server that is not scanned yet to one that is. Each key is returned once."""
    context = context_of("a", "b")
    ring = ClusterRing()
    context.ring = ring  # type: ignore[assignment]  # a ring of the same kind
    found = KeyScan(context, b"*", 5)
    ring.replace([slot % 2 for slot in range(CLUSTER_SLOTS)], ["a", "b"])  # read with the first command
    assert step(found.page(), [[b"0", [b"k"]], [b"7", [b"l"]]], [b"V", b"V"])[0] == [b"k", b"l"]
    assert step(found.page(), [[b"0", [b"m"]]], [b"V"])[0] == [b"m"]
    assert not found.is_over
    assert step(found.page(), [[b"0", [b"k"]], [b"0", [b"m", b"n"]]], [b"V"] * 3)[0] == [b"n"]
    assert found.is_over


def test_a_node_that_is_down_has_no_keys() -> None:
    """Or the scan raises, according to the settings."""
    context = context_of("a")
    assert step(scan(context, b"*", {0: Cursor()}, 5), [DOWN])[0] == ([], {})
    with pytest.raises(NodeUnavailableError):
        step(scan(context_of("a", on_node_failure="raise"), b"*", {0: Cursor()}, 5), [DOWN])
