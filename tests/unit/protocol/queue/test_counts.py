"""The number of partitions, as the queue nodes have it."""

from __future__ import annotations

import pytest

from cachebackend.errors import NodeUnavailableError, WriteBehindDamagedError
from cachebackend.protocol.queue.counts import are_empty, partition_counts, set_partition_counts
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


def test_the_number_is_set_on_every_node_or_an_error_is_raised() -> None:
    """A node that did not answer may have the old one."""
    queue = queue_of("a", "b")
    _, [requests] = step(set_partition_counts(queue, {0: 4, 1: -4}), [b"OK", b"OK"])
    assert [command for _, command in requests] == [
        (b"SET", b"wb:partitions", b"4"),
        (b"SET", b"wb:partitions", b"-4"),
    ]
    with pytest.raises(NodeUnavailableError):
        step(set_partition_counts(queue, {0: 4, 1: 4}), [b"OK", DOWN])


def test_all_nodes_are_empty_or_not() -> None:
    """A node that does not answer may hold writes."""
    queue = queue_of("a", "b")
    assert step(are_empty(queue), [0, 0])[0] is True
    assert step(are_empty(queue), [0, 1])[0] is False
    with pytest.raises(NodeUnavailableError):
        step(are_empty(queue), [0, DOWN])
