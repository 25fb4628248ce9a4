"""Figures of nodes, and the description of a key."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.codec import Codec, Refresh
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.protocol.telemetry.node_info import (
    inspect,
    inspect_shard,
    memory_usage,
    node_infos,
    node_times,
    number_of,
    stored_tokens,
)
from tests.unit.protocol.stepping import DOWN, TOKEN, context_of, step

VALUE = Codec("auto").encode("x", b"k", Refresh(2000.0, 0.5), {b"tag": TOKEN})


def test_info_is_read_by_name() -> None:
    """Headings are left out; a node that does not answer has its error instead."""
    text = b"# Server\r\nvalkey_version:9.1\r\nexecutable:/a:b\r\n\r\ndb0:keys=1\r\n"
    infos, [requests] = step(node_infos(context_of("a", "b")), [text, DOWN])
    assert infos == [{"valkey_version": "9.1", "executable": "/a:b", "db0": "keys=1"}, DOWN]
    assert requests == [(0, (b"INFO",)), (1, (b"INFO",))]
    assert step(node_infos(context_of("a", "b"), [1]), [b""])[1] == [[(1, (b"INFO",))]]


def test_the_memory_usage_leaves_out_keys_that_no_longer_exist() -> None:
    """And keys of a node that does not answer."""
    assert step(memory_usage(context_of("a"), [b"k", b"l", b"m"]), [56, None, DOWN])[0] == [56]


@pytest.mark.parametrize(
    ("record", "ttl_ms", "kind", "ttl", "token"),
    [
        (VALUE, 1500, "value", 1.5, None),
        (b"S" + VALUE[1:], -1, "stale", None, None),
        (b"-12", -1, "integer", None, None),
        (b"L" + TOKEN, 900, "lease", 0.9, TOKEN.hex()),
        (b"Q" + TOKEN * 2, 900, "quarantine", 0.9, TOKEN.hex() * 2),
        (b"T" + TOKEN, -1, "tag", None, TOKEN.hex()),
        (b"?", -1, "unreadable", None, None),
        (b"V", -1, "unreadable", None, None),
        (None, -2, "nothing", None, None),
        (NodeReplyError("WRONGTYPE"), -1, "unreadable", None, None),
    ],
)
def test_a_key_is_described_by_its_record(
    record: Any, ttl_ms: int, kind: str, ttl: float | None, token: str | None
) -> None:
    """Its kind, its time to live in seconds, and the token of a lease, a quarantine or a tag."""
    result, [requests] = step(inspect(context_of("a"), b"k"), [record, ttl_ms])
    assert (result.kind, result.ttl, result.token) == (kind, ttl, token)
    assert requests == [(0, (b"GET", b"k")), (0, (b"PTTL", b"k"))]


def test_a_value_is_described_without_its_payload_being_decoded() -> None:
    """Its codec, its refresh time and its tags."""
    result, _ = step(inspect(context_of("a"), b"k"), [VALUE, 1500])
    assert (result.codec, result.tags, result.size) == (ord("m"), {b"tag": TOKEN}, len(VALUE))
    assert result.refresh is not None
    assert result.refresh.fresh_until == 2000.0


def test_a_node_that_is_down_is_raised() -> None:
    """Then nothing is known about the key."""
    with pytest.raises(NodeUnavailableError):
        step(inspect(context_of("a"), b"k"), [DOWN, DOWN])


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("256", 256), ("-1", -1), ("9" * 19, int("9" * 19))]
    + [
        (text, None)
        for text in ("", "abc", "1e9", "1.5", "nan", "inf", "1_0", " 1", "\u0661", "9" * 20, "9" * 5000)
    ],
)
def test_a_field_is_a_number_or_unknown(text: str, number: int | None) -> None:
    """A server that is not Redis may report anything; a field that is missing is unknown, too."""
    assert number_of({"maxmemory": text}, "maxmemory") == number
    assert number_of({}, "maxmemory") is None


@pytest.mark.parametrize(
    ("entries", "ttl_ms", "kind", "shapes"),
    [
        ([b"id", b"entry"], 1500, "shapes", {b"id": b"entry"}),
        ([], -2, "nothing", {}),
        (NodeReplyError("WRONGTYPE"), -1, "unreadable", {}),
    ],
)
def test_a_shard_is_described_by_its_shapes(
    entries: Any, ttl_ms: int, kind: str, shapes: dict[bytes, bytes]
) -> None:
    """It is a hash, so it is never read as a record."""
    result, [requests] = step(inspect_shard(context_of("a"), b"k"), [entries, ttl_ms])
    assert (result.kind, result.shapes) == (kind, shapes)
    assert requests == [(0, (b"HGETALL", b"k")), (0, (b"PTTL", b"k"))]
    with pytest.raises(NodeUnavailableError):
        step(inspect_shard(context_of("a"), b"k"), [DOWN, DOWN])


def test_what_tags_and_shapes_hold_now_is_read_in_one_scatter() -> None:
    """Nothing of a node that does not answer."""
    found, [requests] = step(
        stored_tokens(context_of("a"), [b"t", b"u"], [(b"shard", b"id")]), [b"T" + TOKEN, DOWN, None]
    )
    assert found == ([b"T" + TOKEN, None], [None])
    assert requests == [(0, (b"GET", b"t")), (0, (b"GET", b"u")), (0, (b"HGET", b"shard", b"id"))]


def test_the_time_of_each_node_is_read() -> None:
    """In seconds; what is not a time is 0."""
    replies = [[b"1000", b"500000"], [b"soon", b"0"], DOWN]
    times, [requests] = step(node_times(context_of("a", "b", "c"), range(3)), replies)
    assert times == {0: 1000.5, 1: 0.0, 2: DOWN}
    assert requests == [(node, (b"TIME",)) for node in range(3)]
