"""What a process notes that its nodes missed, and when an outbox is to be told again."""

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


def keep(missed: MissedDeletes, clock: HeldClock, owed: MissedKeys) -> None:
    missed.kept(0, missed.add(0, owed), clock.monotonic())


def test_what_no_outbox_has_is_handed_over_each_time(missed: MissedDeletes) -> None:
    """The last try may have failed."""
    assert missed.add(0, MissedKeys((b"k",))) == MissedKeys((b"k",))
    assert missed.add(0, MissedKeys((b"k", b"l"))) == MissedKeys((b"k", b"l"))
    assert missed.count(0) == 2


def test_what_an_outbox_was_given_a_moment_ago_is_not_handed_over_again(
    missed: MissedDeletes, clock: HeldClock
) -> None:
    """No relay settles it before the second delete; later one may have, so it is owed anew."""
    keep(missed, clock, MissedKeys((b"k",)))
    assert missed.add(0, MissedKeys((b"k",))) == MissedKeys()
    clock.at += SETTLING_SECONDS / 2
    assert missed.add(0, MissedKeys((b"k",))) == MissedKeys()
    clock.at += 0.01
    assert missed.add(0, MissedKeys((b"k",))) == MissedKeys((b"k",))


def test_a_node_that_missed_too_much_owes_everything(missed: MissedDeletes, clock: HeldClock) -> None:
    """The outbox is told that, and of no more keys; again when a relay may have settled it."""
    keep(missed, clock, MissedKeys((b"1", b"2", b"3")))
    assert missed.add(0, MissedKeys((b"4",))) == ALL_KEYS
    assert missed.count(0) is None
    keep(missed, clock, MissedKeys((b"4",)))
    assert missed.add(0, MissedKeys((b"5",))) == MissedKeys()
    clock.at += SETTLING_SECONDS
    assert missed.add(0, MissedKeys((b"5",))) == ALL_KEYS


def test_a_node_that_missed_a_clear_owes_everything(missed: MissedDeletes, clock: HeldClock) -> None:
    """Whatever it missed before."""
    keep(missed, clock, MissedKeys((b"1",)))
    assert missed.add(0, ALL_KEYS) == ALL_KEYS
    assert missed.take(0) == ALL_KEYS


def test_what_is_taken_is_forgotten(missed: MissedDeletes, clock: HeldClock) -> None:
    """Of the one node; and what is missed next is new."""
    keep(missed, clock, MissedKeys((b"1",)))
    missed.add(1, MissedKeys((b"2",)))
    assert missed.take(0) == MissedKeys((b"1",))
    assert missed.take(0) == MissedKeys()
    assert (missed.count(0), missed.count(1)) == (0, 1)
    assert missed.add(0, MissedKeys((b"1",))) == MissedKeys((b"1",))
