"""Deletes of one key and of many."""

from __future__ import annotations

import pytest

from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.protocol.ring.deletes import begin_delete, delete, delete_many, settle_delete
from tests.unit.protocol.stepping import DOWN, context_of, key_at, step


def test_a_delete_goes_to_the_owner() -> None:
    """And its reply says whether the key existed."""
    context = context_of("a", "b")
    node, call = begin_delete(context, key := key_at(context, 1))
    assert (node, call[3:]) == (1, (key,))
    assert [settle_delete(context, reply) for reply in (1, 0, DOWN)] == [True, False, False]


def test_a_delete_that_failed_raises_according_to_the_settings() -> None:
    """A node that refuses the command always raises."""
    with pytest.raises(NodeUnavailableError):
        settle_delete(context_of("a", on_node_failure="raise"), DOWN)
    with pytest.raises(NodeReplyError):
        settle_delete(context_of("a"), NodeReplyError("NOPERM"))


def test_a_delete_that_its_node_missed_is_recorded() -> None:
    """It returns False, as for a key that did not exist."""
    context = context_of("a")
    assert step(delete(context, b"k"), [DOWN])[0] is False
    assert context.missed.has_missed(0, b"k")


def test_many_keys_are_one_round_trip() -> None:
    """Grouped by owner; keys that a node did not confirm are returned, and it never raises."""
    context = context_of("a", "b", on_node_failure="raise")
    keys = [key_at(context, 0), key_at(context, 1)]
    unconfirmed, requests = step(delete_many(context, keys), [1, DOWN])
    assert requests == [[(0, ("delete", keys[0])), (1, ("delete", keys[1]))]]
    assert unconfirmed == [keys[1]]
    assert context.missed.has_missed(1, keys[1])


def test_a_node_that_refuses_a_delete_did_not_miss_it() -> None:
    """It would refuse it again: the key is returned, and nothing is recorded for a replay."""
    context = context_of("a")
    assert step(delete_many(context, [b"k"]), [NodeReplyError("NOPERM")])[0] == [b"k"]
    assert context.missed.count(0) == 0
    assert context.counters.total().node_failures == 1
