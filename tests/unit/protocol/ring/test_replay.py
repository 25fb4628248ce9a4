"""A node that is back deletes what it missed, before it serves reads."""

from __future__ import annotations

import pytest

from cachebackend.errors import NodeUnavailableError
from cachebackend.protocol.missed_deletes import ALL_KEYS, MissedKeys
from cachebackend.protocol.ring import replay as replay_module
from cachebackend.protocol.ring.replay import replay, replay_missed
from cachebackend.ring import CLUSTER_SLOTS, ClusterRing
from tests.unit.protocol.stepping import DOWN, context_of, step


class Outbox:
    """The outbox of another process."""

    def __init__(self, stored: MissedKeys) -> None:
        self.stored = stored

    def keep(self, node: str, missed: MissedKeys) -> bool:
        return True

    def missed_by(self, node: str, limit: float) -> MissedKeys:
        assert node == "h:1/0"
        return self.stored


def test_deletes_of_all_processes_come_before_those_of_this_one() -> None:
    """In one script for each."""
    context = context_of("a")
    context.record_missed(0, [b"mine"])
    _, requests = step(replay(context, 0, Outbox(MissedKeys((b"theirs",))), "h:1/0"), [1], [1])
    assert requests == [[(0, ("delete", b"theirs"))], [(0, ("delete", b"mine"))]]
    assert context.missed.count(0) == 0
    assert context.counters.total().deletes_replayed == 2


def test_leases_that_this_process_gave_up_are_released_after_the_deletes() -> None:
    """In one round trip; one that the node did not confirm stays."""
    context = context_of("a")
    context.record_missed(0, [b"mine"])
    context.give_up(0, b"k", b"L1")
    context.give_up(0, b"l", b"L2")
    _, requests = step(replay(context, 0, None, "h:1/0"), [1], [0, 1])
    assert requests[1] == [(0, ("release", b"k", b"L1")), (0, ("release", b"l", b"L2"))]
    assert context.orphans.of(0) == []
    context.give_up(0, b"k", b"L3")
    with pytest.raises(NodeUnavailableError):
        step(replay_missed(context, 0), [DOWN])
    assert b"L3" in context.orphans


def test_many_keys_are_deleted_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a node stays responsive."""
    monkeypatch.setattr(replay_module, "KEYS_AT_ONCE", 2)
    context = context_of("a")
    context.record_missed(0, [b"k", b"l", b"m"])
    _, requests = step(replay_missed(context, 0), [2], [1])
    assert [command[1:] for [(_, command)] in requests] == [(b"k", b"l"), (b"m",)]


def test_a_node_that_missed_a_clear_deletes_all_patterns_of_the_aliases() -> None:
    """All keys that match the patterns of the aliases, and no others."""
    context = context_of("a")
    context.patterns = {b"one:*", b"two:*"}
    _, requests = step(replay(context, 0, Outbox(ALL_KEYS), "h:1/0"), [[b"0", []]], [[b"0", []]])
    assert {command[3] for [(_, command)] in requests} == {b"one:*", b"two:*"}


@pytest.mark.parametrize("is_all", [False, True])
def test_deletes_that_the_node_did_not_confirm_are_recorded_again(is_all: bool) -> None:
    """And the failure is raised, so the breaker stays open."""
    context = context_of("a")
    context.patterns = {b"*"}
    if is_all:
        context.record_missed_clear(0)
    else:
        context.record_missed(0, [b"k"])
    with pytest.raises(NodeUnavailableError):
        step(replay_missed(context, 0), [DOWN])
    assert context.missed.count(0) == (None if is_all else 1)


def test_a_delete_whose_replay_fails_goes_with_its_slot() -> None:
    """The slot has moved while the replay was under way, so the new table did not take the delete along."""
    context = context_of("a", "b")
    context.ring = ring = ClusterRing()
    ring.replace([0] * CLUSTER_SLOTS, ["a", "b"])
    context.record_missed(0, [b"k"])
    replayed = replay_missed(context, 0)
    next(replayed)
    ring.replace([1] * CLUSTER_SLOTS, ["a", "b"])
    context.missed.rehome(ring.owner, {(0, 1)}, {0, 1})
    with pytest.raises(NodeUnavailableError):
        replayed.throw(NodeUnavailableError("gone"))
    assert (context.missed.count(0), context.missed.count(1)) == (0, 1)


def test_keys_that_leave_a_node_while_it_is_cleared_are_cleared_at_their_new_owner() -> None:
    """A slot moves before the scan has found its keys; after the clear the node has missed nothing."""
    context = context_of("a")
    context.patterns.add(b"*")
    context.record_missed_clear(0)
    clearing = replay_missed(context, 0)
    next(clearing)
    assert context.missed.rehome(lambda _: 1, {(0, 1)}, {0, 1}) == {1}
    assert context.missed.count(1) is None
    with pytest.raises(StopIteration):
        clearing.send([[b"0", []]])
    assert context.missed.rehome(lambda _: 2, {(0, 2)}, {0, 2}) == set()
