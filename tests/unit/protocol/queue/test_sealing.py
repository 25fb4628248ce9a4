"""Batches that are sealed, synced to the disk and deleted."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.effects import Send, is_promise
from cachebackend.errors import NodeReplyError, NodeUnavailableError, UnconfirmedError, WriteBehindError
from cachebackend.protocol.queue.partition import Partition
from cachebackend.protocol.queue.queue_state import QueueState
from cachebackend.protocol.queue.sealing import Sealed, close, fail, seal, seal_many, sync, sync_fault
from tests.unit.protocol.stepping import DOWN, queue_of, step

METER, OTHER = Partition("shop.meter", 0), Partition("shop.meter", 1)
KEYS = queue_of("a")
STATE = QueueState(0, "ab", 3, 1, 5, None, {})


def test_a_seal_is_random_and_names_the_incarnation() -> None:
    """The node refuses it if its queue has another incarnation by now."""
    reply = [3, 1, 1, b"aa", b"bb", b"\0count\0i\0"]
    sealed, [[(node, command)]] = step(seal(queue_of("a"), STATE, METER, 2), [reply])
    assert sealed == Sealed(3, 1, 1, "aa", "bb", {"count": "i"})
    assert (node, command[:3]) == (0, ("seal", KEYS.meta(METER), KEYS.batch(METER, 2)))
    assert command[-1] == "ab"
    with pytest.raises(WriteBehindError, match="on node 'a' was emptied while it was drained"):
        step(seal(queue_of("a"), STATE, METER, 2), [[]])


def test_seals_that_are_not_on_the_disk_are_synced() -> None:
    """All partitions of a node at once; one that is synced, or was emptied, is left out."""
    third = Partition("shop.meter", 2)
    replies = [[3, 1, 1, b"", b"bb", b""], [3, 1, 2, b"", b"bb", b""], []]
    operation = seal_many(queue_of("a"), dict.fromkeys((METER, OTHER, third), STATE))
    _, requests = step(operation, replies, [1], [1])
    [[(_, touch)], mark] = requests[1:]
    assert (touch[0], touch[2:]) == (b"EVAL", (b"1", KEYS.meta(METER)))
    assert mark == [(0, ("synced", KEYS.meta(METER), b"2"))]


def test_a_sync_is_a_promise() -> None:
    """So the node waits for its disk, and for replicas: for all seals before it."""
    effect = next(sync(queue_of("a"), 0, {METER: 2, OTHER: 3}))
    assert isinstance(effect, Send)
    [(_, command)] = effect.requests
    assert is_promise(command)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (NodeReplyError("ERR unknown command 'WAITAOF'"), "must be Redis 7.2 or later, or Valkey, or set"),
        (NodeReplyError("NOPERM this user"), "let its user call WAITAOF, or set"),
        (NodeReplyError("ERR WAITAOF cannot be used"), "turn its append-only file on, or set"),
    ],
)
def test_a_seal_that_is_not_on_the_disk_is_an_error_with_advice(reply: Any, says: str) -> None:
    """Otherwise a crash could open the batch again after its drain."""
    unconfirmed = UnconfirmedError()
    unconfirmed.__cause__ = reply
    with pytest.raises(WriteBehindError, match=says):
        step(sync(queue_of("a"), 0, {METER: 2}), [unconfirmed])


def test_a_seal_that_is_not_confirmed_in_time_is_synced_again_later() -> None:
    """By the next drain, as if the node had not answered."""
    with pytest.raises(UnconfirmedError, match="'a' did not confirm that batches are sealed.*: 0 of 1"):
        step(sync(queue_of("a"), 0, {METER: 2}), [UnconfirmedError("0 of 1 replicas")])


def test_a_node_that_can_sync_has_no_fault() -> None:
    """The check does not wait for the disk; a node that is down raises."""
    fault, [requests] = step(sync_fault(queue_of("a"), 0), [[0, 0]])
    assert (fault, requests) == (None, [(0, (b"WAITAOF", b"0", b"0", b"1"))])
    fault, _ = step(sync_fault(queue_of("a"), 0), [NodeReplyError("ERR no appendonly")])
    assert "turn its append-only file on" in fault
    with pytest.raises(NodeUnavailableError):
        step(sync_fault(queue_of("a"), 0), [DOWN])


def test_drained_batches_are_deleted_in_one_script() -> None:
    """The script returns whether the batch after them has writes."""
    is_more, [[(_, command)]] = step(close(queue_of("a"), STATE, METER, range(2, 4), "bb"), [1])
    assert is_more is True
    assert command[1:6] == (
        KEYS.meta(METER),
        KEYS.dirty_keys[0],
        KEYS.batch(METER, 2),
        KEYS.batch(METER, 3),
        KEYS.batch(METER, 4),
    )
    assert command[6:8] == (b"2", b"3")
    assert command[-1] == "bb"


def test_the_error_of_a_drain_is_stored_on_the_nodes_of_its_queues() -> None:
    """One that does not answer stores nothing."""
    _, [requests] = step(fail(queue_of("a"), METER, "no such table"), [DOWN])
    assert requests == [(0, ("fail", KEYS.meta(METER), b"no such table", b"1000000"))]
