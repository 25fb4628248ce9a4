"""Deleting every key that matches a pattern."""

from __future__ import annotations

import pytest

from cachebackend.errors import NodeUnavailableError
from cachebackend.protocol.context import Gutter, RingChange
from cachebackend.protocol.ring.clear import clear, clear_missed, delete_matching, delete_misplaced, flush
from cachebackend.ring import Ring
from tests.unit.protocol.stepping import DOWN, context_of, key_at, step

ALL = [b"0", []]


def test_each_node_is_scanned_to_its_end_and_what_is_found_is_deleted() -> None:
    """All nodes at once; a node that has reached its end is not asked again."""
    context = context_of("a", "b")
    cleared, asked = step(
        delete_matching(context, b"*", [0, 1]), [[b"5", [b"k", b"l"]], ALL], [2], [[b"0", [b"m"]]], [1]
    )
    assert (cleared.deleted, cleared.failures) == (3, {})
    assert [[(node, command[0]) for node, command in trip] for trip in asked] == [
        [(0, b"SCAN"), (1, b"SCAN")], [(0, "delete")], [(0, b"SCAN")], [(0, "delete")],
    ]  # fmt: skip


def test_a_node_that_fails_is_named_and_the_others_are_cleared() -> None:
    """Whether its scan fails or its delete."""
    cleared, _ = step(delete_matching(context_of("a", "b"), b"*", [0, 1]), [DOWN, [b"9", [b"k"]]], [DOWN])
    assert (cleared.deleted, cleared.failures) == (0, {0: DOWN, 1: DOWN})


def test_a_node_that_missed_a_clear_holds_nothing_that_may_be_read() -> None:
    """That is recorded; the clear itself counts what it deleted, or raises, according to the settings."""
    context = context_of("a")
    assert step(clear(context, b"*"), [DOWN])[0] == 0
    assert context.missed.count(0) is None
    with pytest.raises(NodeUnavailableError):
        step(clear(context_of("a", on_node_failure="raise"), b"*"), [DOWN])


@pytest.mark.parametrize(("is_old", "order"), [(True, [1, 2, 0]), (False, [2, 0, 1])])
def test_the_old_ring_is_cleared_first_then_the_gutter_then_the_new_ring(
    is_old: bool, order: list[int]
) -> None:
    """As single deletes are, so that nothing is warmed from what is not cleared yet."""
    context = context_of("a")
    context.ring_change = RingChange(Ring([("b", 1.0)]), (1,), is_old, is_warm=True)
    context.gutter = Gutter(Ring([("s", 1.0)]), (2,), 10_000, lambda _: False)
    for operation, reply in ((clear(context, b"*"), ALL), (flush(context), b"OK")):
        _, asked = step(operation, [reply], [reply], [reply])
        assert [node for [(node, _)] in asked] == order


def test_a_clear_that_the_old_ring_missed_is_made_in_the_new_ring_again() -> None:
    """It may have been warmed from that node meanwhile."""
    context = context_of("a")
    context.ring_change = RingChange(Ring([("b", 1.0)]), (1,), is_old=True, is_warm=True)
    confirmed, asked = step(clear_missed(context, b"*", [1]), [ALL], [ALL])
    assert (confirmed, [node for [(node, _)] in asked]) == (True, [1, 0])
    assert step(clear_missed(context, b"*", [0]), [DOWN])[0] is False


def test_foreign_keys_are_counted_and_deleted_if_asked() -> None:
    """Of each node, those that another node owns."""
    context = context_of("a", "b")
    own, foreign = key_at(context, 0), key_at(context, 1)
    looked: list[int] = []
    pages = [[b"0", [own, foreign]]], [[b"0", []]]
    found, asked = step(delete_misplaced(context, b"*", delete=False, progress=looked.append), *pages)
    assert (found, looked, len(asked)) == (1, [2, 2], 2)
    operation = delete_misplaced(context, b"*", delete=True, progress=looked.append)
    found, asked = step(operation, pages[0], [1], pages[1])
    assert (found, asked[1]) == (1, [(0, ("delete", foreign))])
    with pytest.raises(NodeUnavailableError):
        step(delete_misplaced(context, b"*", delete=True, progress=looked.append), [DOWN])
