"""The copies of the near cache: which are stored, for how long, and how much memory they take."""

from __future__ import annotations

import random

import pytest

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.near import MISS, NearCache
from cachebackend.options.ring import NearOptions
from cachebackend.policies import POLICIES


@pytest.mark.parametrize("policy", POLICIES)
def test_copies_take_at_most_max_bytes(policy: str) -> None:
    """Keys and records together, after stores, drops and lost tracking connections in any order."""
    near = NearCache(NearOptions(max_entries=100, max_bytes=500, policy=policy), SYSTEM_CLOCK)
    near.tracking_opened(0)
    near.tracking_opened(1)
    chance = random.Random(0)
    for _ in range(2000):
        key, node = b"%d" % chance.randrange(40), chance.randrange(2)
        near.keep(near.begin(key, node), b"x" * chance.randrange(80), b"", 60.0)
        if chance.random() < 0.2:
            near.drop([key, b"another"])
        assert near.size <= 500
    assert len(near) > 5
    near.tracking_lost(0)
    near.tracking_opened(0)
    assert 0 < near.size < 500
    near.tracking_lost(1)
    assert (len(near), near.size) == (0, 0)
    near.tracking_opened(1)
    near.keep(near.begin(b"key", 0), b"x" * 498, b"", 60.0)
    assert len(near) == 0
    near.keep(near.begin(b"key", 0), b"x" * 497, b"", 60.0)
    assert (len(near), near.size) == (1, 500)
    near.drop_all()
    assert near.size == 0


def test_long_records_are_not_copied() -> None:
    """If they are longer than `max_record_bytes`."""
    near = NearCache(NearOptions(max_entries=10, max_record_bytes=4), SYSTEM_CLOCK)
    near.tracking_opened(0)
    for key, record in ((b"short", b"1234"), (b"long", b"12345")):
        near.keep(near.begin(key, 0), record, record, 60.0)
    assert near.get(b"short", bytes) == b"1234"
    assert near.get(b"long", bytes) is MISS


def test_a_copy_expires_after_max_age() -> None:
    """Even if the node sends no message."""

    class HeldClock:
        at = 0.0

        def monotonic(self) -> float:
            return self.at

        def now(self) -> float:
            return self.at

        def random(self) -> float:
            return 0.0

        def token(self) -> bytes:
            return b""

    clock = HeldClock()
    near = NearCache(NearOptions(max_entries=10, policy="lru"), clock)
    near.tracking_opened(0)
    near.keep(near.begin(b"k", 0), b"1", 1, 60)
    clock.at = 4.9
    assert near.get(b"k", int) == 1
    clock.at = 5.1
    assert near.get(b"k", int) is MISS


def test_no_copies_of_a_node_without_a_tracking_connection() -> None:
    """Nor of a read that began before the connection was open."""
    near = NearCache(NearOptions(max_entries=10), SYSTEM_CLOCK)
    near.keep(near.begin(b"k", 0), b"1", 1, 60)
    assert len(near) == 0
    read = near.begin(b"k", 0)
    near.tracking_opened(0)
    near.keep(read, b"1", 1, 60)
    assert len(near) == 0
