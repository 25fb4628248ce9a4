"""Which ring a delete goes to while the ring is changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cachebackend.protocol import Context
from cachebackend.protocol.context import RingChange
from cachebackend.protocol.ring.ring_change import delete_in_new_ring, delete_in_old_ring
from cachebackend.ring import Ring
from tests.unit.protocol.stepping import DOWN, context_of, key_at, step


@pytest.fixture
def context() -> Context:
    """A process that uses the ring a, b; the other ring is c alone, the third node of the client."""
    context = context_of("a", "b")
    context.ring_change = RingChange(Ring([("c", 1.0)]), (2,), is_old=True, is_warm=True)
    return context


def test_a_process_on_the_new_ring_deletes_in_the_old_ring(context: Context) -> None:
    """``delete_in_new_ring`` sends nothing, because the write itself goes to the new ring."""
    assert step(delete_in_old_ring(context, [b"k"], in_outbox=False), [1]) == ([], [[(2, ("delete", b"k"))]])
    assert step(delete_in_new_ring(context, [b"k"], in_outbox=False)) == ([], [])


def test_a_process_on_the_old_ring_deletes_in_the_new_ring(context: Context) -> None:
    """A key that the new node did not confirm is returned."""
    assert context.ring_change is not None
    context.ring_change = replace(context.ring_change, is_old=False)
    assert step(delete_in_new_ring(context, [b"k"], in_outbox=False), [DOWN])[0] == [b"k"]
    assert step(delete_in_old_ring(context, [b"k"], in_outbox=False)) == ([], [])


def test_a_key_with_the_same_owner_in_both_rings_is_not_deleted_twice(context: Context) -> None:
    """The write itself goes to that node."""
    same = Ring([("a", 1.0), ("c", 1.0)])
    context.ring_change = RingChange(same, (0, 2), is_old=True, is_warm=True)
    keys = [b"key:%d" % number for number in range(200)]
    staying = [key for key in keys if context.ring.owner(key) == 0 == same.owner(key)]
    moving = key_at(context, 1)
    assert staying
    _, [requests] = step(delete_in_old_ring(context, [*staying, moving], in_outbox=False), [1])
    assert [command[1:] for _, command in requests] == [(moving,)]


def test_without_a_ring_change_nothing_is_sent() -> None:
    """The usual case."""
    context = context_of("a", "b")
    for delete in (delete_in_old_ring, delete_in_new_ring):
        assert step(delete(context, [b"k"], in_outbox=False)) == ([], [])
