"""The state of queues, as reported by nodes; a damaged queue is never used."""

from __future__ import annotations

import pytest

from cachebackend.errors import NodeReplyError, NodeUnavailableError, WriteBehindDamagedError
from cachebackend.protocol.queue.partition import Partition
from cachebackend.protocol.queue.queue_state import (
    QueueState,
    dirty,
    node_settings,
    pairs_of,
    parse_numbers,
    queue_states,
)
from tests.unit.protocol.stepping import DOWN, queue_of, step

METER = Partition("shop.meter", 0)
KEYS = queue_of("a")
META = {
    b"born": b"ab12", b"open": b"4", b"done": b"1", b"sealed": b"10", b"since:2": b"1500",
    b"seal:1": b"aa", b"seal:2": b"bb", b"syncs": b"3",
}  # fmt: skip


def flat(meta: dict[bytes, bytes]) -> list[bytes]:
    return [part for pair in meta.items() for part in pair]


def test_a_dirty_partition_is_as_old_as_its_oldest_write() -> None:
    """On any of its nodes; an invalid name is left out."""
    replies = [[b"shop.meter:0", b"2000", b"?", b"1"], [b"shop.meter:0", b"1000"]]
    assert step(dirty(queue_of("a", "b")), replies)[0] == ({METER: 1.0}, {})


def test_the_list_of_dirty_partitions_has_the_errors_of_nodes_that_did_not_answer() -> None:
    """So its caller knows that it may be a part."""
    answered = [b"shop.meter:0", b"1000"]
    assert step(dirty(queue_of("a", "b")), [DOWN, answered])[0] == ({METER: 1.0}, {0: DOWN})
    assert step(dirty(queue_of("a", "b")), [DOWN, DOWN])[0] == ({}, {0: DOWN, 1: DOWN})


def test_a_queue_is_read_from_its_meta_hash() -> None:
    """The fields of the open batch are counted in a second round trip."""
    result, requests = step(queue_states(queue_of("a"), [METER]), [flat(META)], [5])
    assert result == {METER: {0: QueueState(0, "ab12", 4, 1, 15, 1.5, {1: "aa", 2: "bb"})}}
    assert requests[1] == [(0, (b"HLEN", KEYS.batch(METER, 4)))]


def test_a_node_without_a_queue_has_no_state() -> None:
    """And one that does not answer has its error, in the first round trip or in the second."""
    result, _ = step(queue_states(queue_of("a", "b"), [METER]), [[], DOWN])
    assert result == {METER: {1: DOWN}}
    assert step(queue_states(queue_of("a"), [METER]), [flat(META)], [DOWN])[0] == {METER: {0: DOWN}}


@pytest.mark.parametrize(
    "change", [{b"born": b""}, {b"sealed": b"x"}, {b"since:2": b"1.5"}, {b"seal:x": b"aa"}, {b"open": b"1"}]
)
def test_the_error_of_a_damaged_queue_names_its_hash(change: dict[bytes, bytes]) -> None:
    """The fields of its batches are not counted."""
    result, requests = step(queue_states(queue_of("a"), [METER]), [flat(META | change)])
    assert isinstance(result[METER][0], WriteBehindDamagedError)
    assert "wb:{shop.meter:0}:meta" in str(result[METER][0])
    assert len(requests) == 1


@pytest.mark.parametrize(
    ("incarnation", "open_batch", "done"),
    [
        (b"xyz", b"2", b"0"), (b"ab" * 17, b"2", b"0"), (b"ab", b"02", b"0"), (b"ab", b"2", b"2"),
        (b"ab", b"1", b"-1"), (b"ab", b"1000002", b"1"), (b"ab", b"", b"0"),
    ],
)  # fmt: skip
def test_impossible_batch_numbers_are_refused(incarnation: bytes, open_batch: bytes, done: bytes) -> None:
    """The open batch comes after the last deleted one, and not a million batches after it."""
    with pytest.raises(WriteBehindDamagedError):
        parse_numbers(METER, b"wb:meta", incarnation, open_batch, done)
    assert parse_numbers(METER, b"wb:meta", b"ab", b"1000001", b"1") == ("ab", 1_000_001, 1)


def test_settings_that_a_node_does_not_report_are_left_out() -> None:
    """A managed service may refuse CONFIG; a node that is down raises."""
    replies = [[b"appendonly", b"yes"], NodeReplyError("NOPERM"), []]
    names = [b"appendonly", b"maxmemory-policy", b"no-such"]
    result, [requests] = step(node_settings(queue_of("a"), 0, names), replies)
    assert result == {b"appendonly": "yes"}
    assert requests[0] == (0, (b"CONFIG", b"GET", b"appendonly"))
    with pytest.raises(NodeUnavailableError):
        step(node_settings(queue_of("a"), 0, names[:1]), [DOWN])


def test_a_flat_list_is_pairs() -> None:
    """A node returns a hash in this form."""
    assert dict(pairs_of([b"a", b"1", b"b", b"2"])) == {b"a": b"1", b"b": b"2"}
