"""Counts of many processes, stored on two nodes."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.errors import NodeReplyError
from cachebackend.protocol.telemetry.counters import (
    Lags,
    StoredCounts,
    add_counts,
    read_counts,
    read_total,
)
from tests.unit.protocol.stepping import DOWN, SENT_AND_LOST, context_of, key_at, queue_of, step

KEY = key_at(context_of("a", "b"), 0)
REFUSED = NodeReplyError("OOM command not allowed")


def test_counts_are_added_at_the_owner_and_at_the_next_node() -> None:
    """In the order of the settings; one node alone has one copy."""
    context = context_of("a", "b", "c")
    key = key_at(context, 2)
    error, [requests] = step(add_counts(context, key, {"hits": 3}, 60), [1, 1])
    assert error is None
    assert requests == [(node, ("count", key, b"60", "hits", b"3")) for node in (2, 0)]
    _, [requests] = step(add_counts(queue_of("q"), b"k", {"rows": 1}, 60), [1])
    assert [node for node, _ in requests] == [0]


@pytest.mark.parametrize(
    ("replies", "error"),
    [([1, DOWN], None), ([DOWN, DOWN], DOWN), ([DOWN, SENT_AND_LOST], None), ([REFUSED, DOWN], REFUSED)],
)
def test_publishing_fails_only_if_no_copy_can_have_the_counts(replies: list[Any], error: Any) -> None:
    """A node that did not answer may have added the counts, so they are not sent again."""
    assert step(add_counts(context_of("a", "b"), b"k", {"hits": 1}, 60), replies)[0] is error


def test_the_higher_of_two_copies_is_returned() -> None:
    """A copy lacks counts that were added while its node was down. Other fields are left out."""
    one = [b"hits", b"5", b"misses", b"2", b"broken", b"x", b"\xff", b"1"]
    two = [b"hits", b"7", b"huge", b"9" * 30]
    [counts], _ = step(read_counts(context_of("a", "b"), [b"k"]), [one, two])
    assert counts == StoredCounts({"hits": 7, "misses": 2})


def test_one_copy_is_enough_to_read_and_none_is_an_error() -> None:
    """Each hash has its own counts or error."""
    context = context_of("a", "b")
    result, _ = step(read_counts(context, [b"k", b"l"]), [[b"hits", b"1"], DOWN, DOWN, DOWN])
    assert result == [StoredCounts({"hits": 1}, (1,)), DOWN]


def test_counts_of_a_hash_that_is_over_are_raised_at_the_first_read() -> None:
    """Nobody adds to it any more, so a copy that is lower lacks something: as after an outage."""
    read = read_counts(context_of("a", "b"), [KEY, b"k"], {KEY}, 60)
    copies = [[b"hits", b"5", b"loads", b"1"], [b"loads", b"1"], [b"hits", b"5"], []]
    [stored, _], [_, raised] = step(read, copies, [1])
    assert stored == StoredCounts({"hits": 5, "loads": 1})
    assert raised == [(1, ("raise_counts", KEY, b"60", b"0", "hits", b"5"))]
    assert len(step(read_counts(context_of("a", "b"), [KEY], {KEY}, 60), [[b"hits", b"5"], DOWN])[1]) == 1


FULL = [b"hits", b"7", b"misses", b"2", b"ab", b"a description"]


def total(lags: Lags, copies: list[Any], calls: int = 0) -> tuple[Lags, list[Any]]:
    """Read a total; return the differences, and the commands that raise counts."""
    answers = [[1] * calls] if calls else []
    (_, found), [_, *raised] = step(read_total(context_of("a", "b"), KEY, lags, 60), copies, *answers)
    return found, [request for requests in raised for request in requests]


def test_a_count_that_is_lower_in_two_reads_is_raised() -> None:
    """Not in the first read: another process may be adding to both copies. Descriptions are copied too."""
    lags, raised = total({}, [FULL, []])
    assert (lags, raised) == ({0: {}, 1: {"hits": 7, "misses": 2}}, [])
    _, raised = total(lags, [FULL, [b"hits", b"1"]], calls=1)
    call = ("raise_counts", KEY, b"60", b"1", b"ab", b"a description", "hits", b"7", "misses", b"2")
    assert raised == [(1, call)]


def test_a_count_is_raised_by_the_smaller_difference() -> None:
    """The larger one includes what is being added just now."""
    lags, _ = total({}, [[b"hits", b"9"], [b"hits", b"5"]])
    _, [(node, call)] = total(lags, [[b"hits", b"20"], [b"hits", b"6"]], calls=1)
    assert (node, call[-2:]) == (1, ("hits", b"10"))


@pytest.mark.parametrize("second", [[FULL, FULL], [FULL, DOWN], [DOWN, DOWN]])
def test_equal_copies_and_one_copy_are_left_as_they_are(second: list[Any]) -> None:
    """No matter what the read before found."""
    assert total({1: {"hits": 7}}, second)[1] == []
