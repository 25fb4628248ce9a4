"""The bracket of every write: the old ring and the gutter first, the new ring last."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cachebackend.protocol import Context
from cachebackend.protocol.cache.get import get
from cachebackend.protocol.cache.set import set_, set_many
from cachebackend.protocol.context import Gutter, RingChange
from cachebackend.protocol.ring.write import delete_elsewhere, settle_write, write, write_by
from cachebackend.ring import Ring
from tests.unit.protocol.stepping import DOWN, context_of, step

SET = (b"SET", b"k", b"1")


def in_ring_change(*, is_old: bool, has_gutter: bool = False) -> Context:
    """Return a ring of node 0; node 1 is the other ring, node 2 the gutter."""
    context = context_of("a")
    context.ring_change = RingChange(Ring([("b", 1.0)]), (1,), is_old, is_warm=False)
    if has_gutter:
        context.gutter = Gutter(Ring([("s", 1.0)]), (2,), 10_000, lambda _: False)
    return context


def test_a_write_outside_of_a_ring_change_is_one_round_trip() -> None:
    """And without a gutter."""
    assert step(write(context_of("a"), [b"k"], lambda: [(0, SET)]), [b"OK"]) == ([b"OK"], [[(0, SET)]])


def test_the_delete_in_the_old_ring_comes_before_the_write() -> None:
    """Else a reader could warm the old value from it after the write."""
    _, requests = step(write(in_ring_change(is_old=True), [b"k"], lambda: [(0, SET)]), [1], [b"OK"])
    assert requests == [[(1, ("delete", b"k"))], [(0, SET)]]


def test_the_delete_in_the_new_ring_comes_after_the_write() -> None:
    """Else a reader could warm the old value into it before the write."""
    _, requests = step(write(in_ring_change(is_old=False), [b"k"], lambda: [(0, SET)]), [b"OK"], [1])
    assert requests == [[(0, SET)], [(1, ("delete", b"k"))]]


def test_the_delete_in_the_gutter_comes_after_the_old_ring_and_before_the_write() -> None:
    """A fill does not delete in the gutter, because it may be stored there."""
    context = in_ring_change(is_old=True, has_gutter=True)
    _, requests = step(write(context, [b"k"], lambda: [(0, SET)]), [1], [1], [b"OK"])
    assert [request for [request] in requests] == [(1, ("delete", b"k")), (2, ("delete", b"k")), (0, SET)]
    _, requests = step(write_by(context, [b"k"], _nothing(), in_gutter=False), [1])
    assert requests == [[(1, ("delete", b"k"))]]


def test_keys_that_are_not_confirmed_elsewhere_are_returned() -> None:
    """Together with the result of the operation in the bracket."""
    operation = write_by(in_ring_change(is_old=True), [b"k"], _nothing())
    assert step(operation, [DOWN])[0] == (None, [b"k"])


def test_delete_elsewhere_sends_nothing_to_the_owner() -> None:
    """It is for an operation that has written at the owner itself."""
    _, requests = step(delete_elsewhere(in_ring_change(is_old=False), [b"k"]), [1])
    assert requests == [[(1, ("delete", b"k"))]]


@pytest.mark.parametrize(("overwrites", "missed"), [(True, 1), (False, 0)])
def test_an_owner_that_did_not_confirm_an_overwrite_may_hold_an_older_value(
    overwrites: bool, missed: int
) -> None:
    """A missed delete is recorded for it; not for ``add`` and ``incr``, which do not overwrite."""
    context = context_of("a")
    step(write(context, [b"k"], lambda: [(0, SET)], overwrites=overwrites), [DOWN])
    assert context.missed.count(0) == missed


def test_a_write_to_the_gutter_records_a_missed_delete_for_the_owner() -> None:
    """The owner deletes the key when it is back, although the gutter confirmed the write."""
    context = context_of("a")
    context.gutter = Gutter(Ring([("s", 1.0)]), (1,), 10_000, lambda _: True)
    settle_write(context, b"k", 1, b"OK")
    assert [context.missed.count(node) for node in (0, 1)] == [1, 0]
    settle_write(context, b"l", 0, b"OK")
    assert context.missed.count(0) == 1


def test_the_copies_of_the_process_are_dropped_before_and_after() -> None:
    """So a copy that another thread stored in between does not stay."""

    class Near:
        dropped = 0

        def drop(self, _: Any) -> None:
            self.dropped += 1

    context = context_of("a")
    context.near = near = Near()  # type: ignore[assignment]  # all that the bracket calls
    step(write(context, [b"k"], lambda: [(0, SET)]), [b"OK"])
    assert near.dropped == 2


def _nothing() -> Any:
    return
    yield


def in_ring_change_with_gutter(ejected: set[int]) -> Context:
    """Return nodes 0 (owner), 1 (old ring) and 2 (gutter); ``ejected`` names those that are ejected now."""
    context = in_ring_change(is_old=True)
    context.gutter = Gutter(Ring([("s", 1.0)]), (2,), 10_000, ejected.__contains__)
    return context


@pytest.mark.parametrize(
    "write_value",
    [
        lambda context: set_(context, b"k", "v", 60_000),
        lambda context: set_many(context, {"k": b"k"}, {"k": "v"}, 60_000),
    ],
    ids=["set", "set_many"],
)
@pytest.mark.parametrize(("before", "after", "target"), [(set(), {0}, 2), ({0}, set(), 0)])
def test_a_value_is_stored_at_the_node_that_serves_it_after_the_deletes(
    write_value: Any, before: set[int], after: set[int], target: int
) -> None:
    """The deletes in the old ring may eject the owner, or take so long that it returns."""
    ejected = set(before)
    context = in_ring_change_with_gutter(ejected)
    operation = write_value(context)
    next(operation)  # the delete in the old ring
    ejected.clear()
    ejected.update(after)
    operation.send([1])  # the delete in the gutter
    effect = operation.send([1])
    assert [(to, command[0]) for to, command in effect.requests] == [(target, b"SET")]


def test_a_read_that_ejects_the_owner_reads_the_gutter_and_then_the_old_ring() -> None:
    """The old ring still holds the value of a key that has not moved."""
    ejected: set[int] = set()
    context = in_ring_change_with_gutter(ejected)
    assert context.ring_change is not None
    context.ring_change = replace(context.ring_change, is_warm=True)
    operation = get(context, b"k")
    next(operation)
    ejected.add(0)
    effect = operation.send([DOWN])
    assert effect.requests == [(2, (b"GET", b"k"))]
    effect = operation.send([None])
    assert effect.requests == [(1, (b"GET", b"k"))]
    with pytest.raises(StopIteration) as end:
        operation.send([context.codec.encode("warm", b"")])
    assert end.value.value == "warm"
