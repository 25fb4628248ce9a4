"""Deleting every key that matches a pattern."""

from __future__ import annotations

import pytest

from cachebackend.errors import NodeUnavailableError
from cachebackend.protocol.context import Gutter, RingChange
from cachebackend.protocol.ring.clear import clear, clear_missed, delete_matching, delete_misplaced, flush
from cachebackend.ring import ClusterRing, Ring
from tests.unit.protocol.stepping import DOWN, context_of, key_at, step

ALL = [b"0", []]


def test_every_node_is_scanned_to_its_end_and_matching_keys_are_deleted() -> None:
    """All nodes at once; a node that has reached its end is not asked again."""
    context = context_of("a", "b")
    cleared, requests = step(
        delete_matching(context, b"*", [0, 1]), [[b"5", [b"k", b"l"]], ALL], [2], [[b"0", [b"m"]]], [1]
    )
    assert (cleared.deleted, cleared.failures) == (3, {})
    assert [[(node, command[0]) for node, command in trip] for trip in requests] == [
        [(0, b"SCAN"), (1, b"SCAN")], [(0, "delete")], [(0, b"SCAN")], [(0, "delete")],
    ]  # fmt: skip


def test_a_node_that_fails_is_named_and_the_others_are_cleared() -> None:
    """Whether its scan or its delete fails."""
    cleared, _ = step(delete_matching(context_of("a", "b"), b"*", [0, 1]), [DOWN, [b"9", [b"k"]]], [DOWN])
    assert (cleared.deleted, cleared.failures) == (0, {0: DOWN, 1: DOWN})


def test_a_node_that_missed_a_clear_has_missed_all_keys() -> None:
    """This is recorded; the clear returns its count, or raises according to ``on_node_failure``."""
    context = context_of("a")
    assert step(clear(context, b"*"), [DOWN])[0] == 0
    assert context.missed.count(0) is None
    with pytest.raises(NodeUnavailableError):
        step(clear(context_of("a", on_node_failure="raise"), b"*"), [DOWN])


@pytest.mark.parametrize(("is_old", "order"), [(True, [1, 2, 0]), (False, [2, 0, 1])])
def test_the_old_ring_is_cleared_first_then_the_gutter_then_the_new_ring(
    is_old: bool, order: list[int]
) -> None:
    """In the order of single deletes, so that no value is warmed from a node that is not cleared yet."""
    context = context_of("a")
    context.ring_change = RingChange(Ring([("b", 1.0)]), (1,), is_old, is_warm=True)
    context.gutter = Gutter(Ring([("s", 1.0)]), (2,), 10_000, lambda _: False)
    for operation, reply in ((clear(context, b"*"), ALL), (flush(context), b"OK")):
        _, requests = step(operation, [reply], [reply], [reply])
        assert [node for [(node, _)] in requests] == order


@pytest.mark.parametrize(("is_old", "order"), [(True, [1, 1, 0]), (False, [0, 1, 1])])
def test_a_cluster_that_is_the_other_ring_is_cleared_twice(is_old: bool, order: list[int]) -> None:
    """A key may move from a server that is not cleared yet to one that is."""
    context = context_of("a")
    context.ring_change = RingChange(ClusterRing(1), None, is_old, is_warm=True)
    _, requests = step(clear(context, b"*"), [ALL], [ALL], [ALL])
    assert [node for [(node, _)] in requests] == order


def test_a_clear_that_the_old_ring_missed_is_repeated_in_the_new_ring() -> None:
    """Values may have been warmed from that node in the meantime."""
    context = context_of("a")
    context.ring_change = RingChange(Ring([("b", 1.0)]), (1,), is_old=True, is_warm=True)
    confirmed, requests = step(clear_missed(context, b"*", [1]), [ALL], [ALL])
    assert (confirmed, [node for [(node, _)] in requests]) == (True, [1, 0])
    assert step(clear_missed(context, b"*", [0]), [DOWN])[0] is False


def test_foreign_keys_are_counted_and_deleted_if_asked() -> None:
    """On each node, the keys that another node owns."""
    context = context_of("a", "b")
    own, foreign = key_at(context, 0), key_at(context, 1)
    scanned: list[int] = []
    pages = [[b"0", [own, foreign]]], [[b"0", []]]
    count, requests = step(delete_misplaced(context, b"*", delete=False, progress=scanned.append), *pages)
    assert (count, scanned, len(requests)) == (1, [2, 2], 2)
    operation = delete_misplaced(context, b"*", delete=True, progress=scanned.append)
    count, requests = step(operation, pages[0], [1], pages[1])
    assert (count, requests[1]) == (1, [(0, ("delete", foreign))])
    with pytest.raises(NodeUnavailableError):
        step(delete_misplaced(context, b"*", delete=True, progress=scanned.append), [DOWN])
