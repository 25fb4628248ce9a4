"""The state of queues, as nodes report it; a queue that is damaged is never acted on."""

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
META = {
    b"born": b"ab12", b"open": b"4", b"done": b"1", b"sealed": b"10", b"since:2": b"1500",
    b"seal:1": b"aa", b"seal:2": b"bb", b"syncs": b"3",
}  # fmt: skip


def flat(meta: dict[bytes, bytes]) -> list[bytes]:
    return [part for pair in meta.items() for part in pair]


def test_a_dirty_partition_is_as_old_as_its_oldest_write() -> None:
    """On whichever node that is; a name that is not valid is left out."""
    replies = [[b"shop.meter:0", b"2000", b"?", b"1"], [b"shop.meter:0", b"1000"]]
    assert step(dirty(queue_of("a", "b")), replies)[0] == {METER: 1.0}


def test_one_node_is_enough_to_know_what_is_dirty() -> None:
    """If none answers, the first failure is raised."""
    assert step(dirty(queue_of("a", "b")), [DOWN, [b"shop.meter:0", b"1000"]])[0] == {METER: 1.0}
    with pytest.raises(NodeUnavailableError):
        step(dirty(queue_of("a", "b")), [DOWN, DOWN])


def test_a_queue_is_read_from_its_meta_hash() -> None:
    """The fields of the open batch are counted in a second round trip."""
    found, asked = step(queue_states(queue_of("a"), [METER]), [flat(META)], [5])
    assert found == {METER: {0: QueueState(0, "ab12", 4, 1, 15, 1.5, {1: "aa", 2: "bb"})}}
    assert asked[1] == [(0, (b"HLEN", METER.batch(4)))]


def test_a_node_without_a_queue_has_no_state() -> None:
    """And one that does not answer has its error, in the first round trip or in the second."""
    found, _ = step(queue_states(queue_of("a", "b"), [METER]), [[], DOWN])
    assert found == {METER: {1: DOWN}}
    assert step(queue_states(queue_of("a"), [METER]), [flat(META)], [DOWN])[0] == {METER: {0: DOWN}}


@pytest.mark.parametrize(
    "change", [{b"born": b""}, {b"sealed": b"x"}, {b"since:2": b"1.5"}, {b"seal:x": b"aa"}, {b"open": b"1"}]
)
def test_a_damaged_queue_is_told_with_its_hash(change: dict[bytes, bytes]) -> None:
    """Nobody counts its batches."""
    found, asked = step(queue_states(queue_of("a"), [METER]), [flat(META | change)])
    assert isinstance(found[METER][0], WriteBehindDamagedError)
    assert "wb:{shop.meter:0}:meta" in str(found[METER][0])
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("incarnation", "open_batch", "done"),
    [
        (b"xyz", b"2", b"0"), (b"ab" * 17, b"2", b"0"), (b"ab", b"02", b"0"), (b"ab", b"2", b"2"),
        (b"ab", b"1", b"-1"), (b"ab", b"1000002", b"1"), (b"ab", b"", b"0"),
    ],
)  # fmt: skip
def test_numbers_that_no_queue_has_are_refused(incarnation: bytes, open_batch: bytes, done: bytes) -> None:
    """The open batch comes after the last deleted one, and not a million batches after it."""
    with pytest.raises(WriteBehindDamagedError):
        parse_numbers(METER, incarnation, open_batch, done)
    assert parse_numbers(METER, b"ab", b"1000001", b"1") == ("ab", 1_000_001, 1)


def test_settings_that_a_node_does_not_report_are_left_out() -> None:
    """A managed service may refuse CONFIG; a node that is down raises."""
    replies = [[b"appendonly", b"yes"], NodeReplyError("NOPERM"), []]
    names = [b"appendonly", b"maxmemory-policy", b"no-such"]
    found, [asked] = step(node_settings(queue_of("a"), 0, names), replies)
    assert found == {b"appendonly": "yes"}
    assert asked[0] == (0, (b"CONFIG", b"GET", b"appendonly"))
    with pytest.raises(NodeUnavailableError):
        step(node_settings(queue_of("a"), 0, names[:1]), [DOWN])


def test_a_flat_list_is_pairs() -> None:
    """As a node returns a hash."""
    assert dict(pairs_of([b"a", b"1", b"b", b"2"])) == {b"a": b"1", b"b": b"2"}
