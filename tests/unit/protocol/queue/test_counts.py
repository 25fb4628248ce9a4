"""The number of partitions, as the queue nodes have it."""

from __future__ import annotations

import pytest

from cachebackend.errors import NodeUnavailableError, WriteBehindDamagedError, WriteBehindMovedError
from cachebackend.protocol.queue.counts import (
    are_empty,
    exchange_partition_counts,
    partition_counts,
    share_partition_count,
)
from tests.unit.protocol.stepping import DOWN, queue_of, step


def test_nodes_without_a_number_or_an_answer_are_left_out() -> None:
    """A negative number is one that is being changed."""
    queue = queue_of("a", "b", "c")
    counts, [[(_, command), *_]] = step(partition_counts(queue, [0, 1, 2]), [b"-8", DOWN, None])
    assert counts == {0: -8}
    assert command == (b"GET", b"wb:partitions")


@pytest.mark.parametrize("text", [b"", b"0", b"-", b"x", b"12345"])
def test_a_damaged_number_is_an_error(text: bytes) -> None:
    """No partition is chosen by it."""
    with pytest.raises(WriteBehindDamagedError, match="is not a number of partitions"):
        step(partition_counts(queue_of("a"), [0]), [text])


def test_every_node_must_answer_if_the_numbers_must_be_complete() -> None:
    """A change of the number begins with them."""
    with pytest.raises(NodeUnavailableError):
        step(partition_counts(queue_of("a", "b"), [0, 1], complete=True), [b"8", DOWN])


def test_a_number_is_exchanged_for_the_expected_one() -> None:
    """The reply of each node says whether it was, and a node that did not answer may have either."""
    queue = queue_of("a", "b", "c")
    exchanged = exchange_partition_counts(queue, {0: (4, -4), 1: (None, -4), 2: (4, -4)})
    done, [requests] = step(exchanged, [1, 0, DOWN])
    assert done == {0: True, 1: False, 2: DOWN}
    assert [command[1:] for _, command in requests] == [
        (b"wb:partitions", b"4", b"-4"),
        (b"wb:partitions", b"", b"-4"),
        (b"wb:partitions", b"4", b"-4"),
    ]


@pytest.mark.parametrize("number", [b"16", b"-16"])
def test_a_node_without_a_number_gets_that_of_the_others(number: bytes) -> None:
    """Not that of the settings; a node that does not answer changes nothing."""
    queue = queue_of("a", "b", "c", partitions=4)
    _, [_, [(node, command)]] = step(share_partition_count(queue), [None, number, DOWN], [1])
    assert (node, command[1:]) == (0, (b"wb:partitions", b"", number))


def test_without_any_number_one_node_decides() -> None:
    """Processes with different settings ask the same one, in any order of their nodes."""
    queue = queue_of("b", "a", partitions=4)
    _, requests = step(share_partition_count(queue), [None, None], [0], [b"8"], [1])
    assert [[(node, *command[1:]) for node, command in each] for each in requests[1:]] == [
        [(1, b"wb:partitions", b"", b"4")],
        [(1, b"wb:partitions")],
        [(0, b"wb:partitions", b"", b"8")],
    ]


def test_a_number_that_may_be_another_is_not_shared() -> None:
    """The nodes differ, or the one that may have the number does not answer."""
    with pytest.raises(WriteBehindMovedError, match="different numbers"):
        step(share_partition_count(queue_of("a", "b")), [b"4", b"16"])
    with pytest.raises(NodeUnavailableError, match="number of partitions is not known"):
        step(share_partition_count(queue_of("a", "b")), [None, DOWN])


def test_all_nodes_are_empty_or_not() -> None:
    """A node that does not answer may hold writes."""
    queue = queue_of("a", "b")
    assert step(are_empty(queue), [0, 0])[0] is True
    assert step(are_empty(queue), [0, 1])[0] is False
    with pytest.raises(NodeUnavailableError):
        step(are_empty(queue), [0, DOWN])
