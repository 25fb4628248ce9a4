"""The missed deletes that a process records, and when it stores them in the outbox again."""

from __future__ import annotations

import pytest

from cachebackend.protocol.missed_deletes import ALL_KEYS, SETTLING_SECONDS, MissedDeletes, MissedKeys
from tests.unit.node.test_breaker import HeldClock

LIMIT = 3


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def missed(clock: HeldClock) -> MissedDeletes:
    return MissedDeletes(LIMIT, clock)


def store(missed: MissedDeletes, clock: HeldClock, keys: MissedKeys) -> None:
    """Record missed keys of node 0, as if the outbox stored them now."""
    missed.kept(0, missed.add(0, keys), clock.monotonic())


def test_keys_that_no_outbox_has_stored_are_returned_each_time(missed: MissedDeletes) -> None:
    """Because the last attempt to store them may have failed."""
    assert missed.add(0, MissedKeys((b"k",))) == MissedKeys((b"k",))
    assert missed.add(0, MissedKeys((b"k", b"l"))) == MissedKeys((b"k", b"l"))
    assert missed.count(0) == 2


def test_keys_that_an_outbox_stored_a_moment_ago_are_not_returned_again(
    missed: MissedDeletes, clock: HeldClock
) -> None:
    """No relay settles the row that soon. After ``SETTLING_SECONDS`` one may have, so the key is returned."""
    store(missed, clock, MissedKeys((b"k",)))
    assert missed.add(0, MissedKeys((b"k",))) == MissedKeys()
    clock.at += SETTLING_SECONDS / 2
    assert missed.add(0, MissedKeys((b"k",))) == MissedKeys()
    clock.at += 0.01
    assert missed.add(0, MissedKeys((b"k",))) == MissedKeys((b"k",))


def test_a_node_that_missed_too_many_keys_has_missed_all_keys(
    missed: MissedDeletes, clock: HeldClock
) -> None:
    """The outbox stores this once, and no more keys; again when a relay may have settled the row."""
    store(missed, clock, MissedKeys((b"1", b"2", b"3")))
    assert missed.add(0, MissedKeys((b"4",))) == ALL_KEYS
    assert missed.count(0) is None
    store(missed, clock, MissedKeys((b"4",)))
    assert missed.add(0, MissedKeys((b"5",))) == MissedKeys()
    clock.at += SETTLING_SECONDS
    assert missed.add(0, MissedKeys((b"5",))) == ALL_KEYS


def test_a_node_that_missed_a_clear_has_missed_all_keys(missed: MissedDeletes, clock: HeldClock) -> None:
    """Also if it had missed single keys before."""
    store(missed, clock, MissedKeys((b"1",)))
    assert missed.add(0, ALL_KEYS) == ALL_KEYS
    assert missed.take(0) == ALL_KEYS


def test_taken_keys_are_no_longer_recorded(missed: MissedDeletes, clock: HeldClock) -> None:
    """Only for this node; a key that it misses later is recorded as new."""
    store(missed, clock, MissedKeys((b"1",)))
    missed.add(1, MissedKeys((b"2",)))
    assert missed.take(0) == MissedKeys((b"1",))
    assert missed.take(0) == MissedKeys()
    assert (missed.count(0), missed.count(1)) == (0, 1)
    assert missed.add(0, MissedKeys((b"1",))) == MissedKeys((b"1",))


def test_postponed_deletes_are_recorded_again_for_the_node_that_has_the_key() -> None:
    """With its next replay; there is a limit, beyond which the replay fails instead."""
    missed = MissedDeletes(2, HeldClock())
    assert missed.postpone(0, [b"a", b"b"])
    assert not missed.postpone(0, [b"c"])
    assert (missed.postponed({0, 1}), missed.postponed({1})) == ([(b"a", 0), (b"b", 1)], [])
    missed.resume(1, lambda node, key: 1 if key == b"a" else node)
    assert (missed.count(0), missed.take(1), missed.take(1)) == (0, MissedKeys((b"a",)), MissedKeys())
    assert missed.rehome(lambda _: 3, {(0, 3)}, {0, 3}) == {3}
    assert missed.take(3) == MissedKeys((b"b",))


def test_a_delete_in_a_slot_that_no_server_has_stays_postponed() -> None:
    """No node gets it, and none has it."""
    missed = MissedDeletes(2, HeldClock())
    assert not missed.has_postponed
    missed.postpone(0, [b"a", b"b"])
    assert missed.holders_of_postponed(lambda _, key: 1 if key == b"a" else None) == {1}
    missed.resume(1, lambda _, key: 1 if key == b"a" else None)
    assert (missed.take(1), missed.postponed({0})) == (MissedKeys((b"a",)), [(b"b", 1)])
    assert missed.has_postponed


def test_a_key_that_is_deleted_again_has_another_postponed_delete() -> None:
    """A probe that has sent the first one must send the second one, too: the key may have been filled."""
    missed = MissedDeletes(1, HeldClock())
    missed.postpone(0, [b"a"])
    first = missed.postponed({0})
    assert missed.postpone(0, [b"a"])
    assert missed.postponed({0}) != first


def test_postponed_deletes_stay_in_their_cluster() -> None:
    """While a ring changes from a cluster to another one, both may hold the key."""
    missed = MissedDeletes(2, HeldClock())
    missed.postpone(0, [b"a"])
    missed.resume(2, lambda node, key: 1 if node in {0, 1} else 2)
    assert missed.rehome(lambda _: 2, {(2, 3)}, {2, 3}) == set()
    assert missed.count(2) == 0
    missed.resume(1, lambda node, key: 1 if node in {0, 1} else 2)
    assert missed.take(1) == MissedKeys((b"a",))


@pytest.mark.parametrize("keys", [MissedKeys((b"k",)), ALL_KEYS])
def test_a_forked_child_has_what_the_parent_was_replaying(missed: MissedDeletes, keys: MissedKeys) -> None:
    """The child does not have the thread that replays it, and its node may serve before that has ended."""
    missed.add(0, keys)
    assert missed.take(0) == keys
    missed.after_fork()
    assert missed.take(0) == keys


def test_a_replay_of_the_parent_ends_in_a_forked_child(missed: MissedDeletes) -> None:
    """Else each slot that leaves the node would clear its new owner, for as long as the child lives."""
    missed.add(0, ALL_KEYS)
    missed.take(0)
    missed.after_fork()
    assert missed.take(0) == ALL_KEYS
    missed.replayed(0)
    assert missed.rehome(lambda _: 1, {(0, 1)}, {0, 1}) == set()


def test_a_replay_that_has_ended_is_nothing_to_a_forked_child(missed: MissedDeletes) -> None:
    """The node has confirmed it."""
    missed.add(0, ALL_KEYS)
    missed.take(0)
    missed.replayed(0)
    missed.after_fork()
    assert missed.count(0) == 0
