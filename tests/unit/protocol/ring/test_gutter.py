"""Deletes in the gutter."""

from __future__ import annotations

from cachebackend.protocol.context import Gutter
from cachebackend.protocol.ring.gutter import delete_in_gutter
from cachebackend.ring import Ring
from tests.unit.protocol.stepping import DOWN, context_of, step


def test_without_a_gutter_nothing_is_sent() -> None:
    """The usual case."""
    assert step(delete_in_gutter(context_of("a"), [b"k"], in_outbox=False)) == ([], [])


def test_each_key_is_deleted_at_its_owner_in_the_gutter() -> None:
    """One command for each node; the keys of one that does not answer are returned."""
    context = context_of("a")
    gutter = context.gutter = Gutter(Ring([("s", 1.0), ("t", 1.0)]), (1, 2), 10_000, lambda _: False)
    keys = [b"key:%d" % number for number in range(10)]
    unconfirmed, [requests] = step(delete_in_gutter(context, keys, in_outbox=False), [1, DOWN])
    assert {node: set(command[1:]) for node, command in requests} == {
        node: {key for key in keys if gutter.owner(key) == node} for node in (1, 2)
    }
    assert set(unconfirmed) == set(requests[1][1][1:])
    assert context.missed.count(requests[1][0]) == len(unconfirmed)
