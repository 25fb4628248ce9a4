"""Copies in the process: a copy is kept only if its key was not invalidated since the read began."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.near import MISS, NearCache, cache
from cachebackend.options.ring import NearOptions
from cachebackend.policies import POLICIES
from tests.unit.protocol.stepping import StillClock


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def near(clock: StillClock) -> NearCache:
    """A near cache whose node 0 is tracked."""
    near = NearCache(NearOptions(max_entries=10), clock)
    near.tracking_opened(0)
    return near


def store_copy(near: NearCache, key: bytes = b"k", value: Any = 1, ttl: float = 60.0) -> None:
    near.keep(near.begin(key, 0), b"record", value, ttl)


def test_a_copy_is_read_until_it_is_dropped(near: NearCache) -> None:
    """Then the node is asked again."""
    store_copy(near)
    assert near.get(b"k", pytest.fail) == 1
    assert near.has_copy(b"k")
    near.drop([b"k"])
    assert near.get(b"k", pytest.fail) is MISS
    assert not near.has_copy(b"k")


@pytest.mark.parametrize(
    "overtake",
    [
        lambda near: near.drop([b"k"]),
        lambda near: near.drop_all(),
        lambda near: near.tracking_lost(0),
        lambda near: near.tracking_opened(1),
        lambda near: near.begin(b"k", 0),
        lambda near: near.after_fork(),
    ],
    ids=["invalidated", "cleared", "tracking lost", "tracking began", "another read", "forked"],
)
def test_a_reply_that_something_overtook_is_not_kept(
    near: NearCache, overtake: Callable[[NearCache], Any]
) -> None:
    """Its placeholder is gone: the value may be older than the invalidation."""
    read = near.begin(b"k", 0)
    overtake(near)
    near.keep(read, b"record", 1, 60.0)
    assert near.get(b"k", pytest.fail) is MISS


def test_a_mutable_value_is_decoded_for_each_reader(near: NearCache) -> None:
    """Its record is kept; an immutable value is shared."""
    store_copy(near, value=[1])
    first, second = (near.get(b"k", lambda record, key: [key, record]) for _ in range(2))
    assert first == second == [b"k", b"record"]
    assert first is not second


@pytest.mark.parametrize(("ttl", "seconds"), [(60.0, 5.0), (3.0, 3.0)])
def test_a_copy_is_as_old_as_its_read(near: NearCache, clock: StillClock, ttl: float, seconds: float) -> None:
    """At most ``max_age``, and no longer than the key's own time to live, from when the read began."""
    read = near.begin(b"k", 0)
    clock.at += 1
    near.keep(read, b"record", 1, ttl)
    clock.at += seconds - 1.1
    assert near.get(b"k", pytest.fail) == 1
    clock.at += 0.1
    assert not near.has_copy(b"k")
    assert near.get(b"k", pytest.fail) is MISS
    assert len(near) == 0


def test_a_key_that_has_expired_already_is_not_kept(near: NearCache) -> None:
    """Nor is a record that is too long."""
    store_copy(near, ttl=0.0)
    small = NearCache(NearOptions(max_entries=10, max_record_bytes=3), StillClock())
    small.tracking_opened(0)
    store_copy(small)
    assert (len(near), len(small)) == (0, 0)


def test_a_lost_tracking_connection_drops_the_copies_of_its_node(near: NearCache) -> None:
    """The copies of other nodes stay."""
    near.tracking_opened(1)
    store_copy(near)
    near.keep(near.begin(b"other", 1), b"record", 2, 60.0)
    assert near.tracked_nodes == {0, 1}
    near.tracking_lost(0)
    assert near.get(b"k", pytest.fail) is MISS
    assert near.get(b"other", pytest.fail) == 2


def test_reads_that_never_end_do_not_stop_later_copies(
    near: NearCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted reader may leave placeholders behind: the oldest ones make room for new ones."""
    monkeypatch.setattr(cache, "_MAX_PLACEHOLDERS", 3)
    lost = [near.begin(b"lost-%d" % number, 0) for number in range(5)]
    near.begin(lost[-1].key, 0)  # the newest again
    store_copy(near, b"k")
    assert near.has_copy(b"k")
    near.keep(lost[0], b"record", 1, 60.0)
    assert not near.has_copy(lost[0].key)
    assert len(near._placeholders) <= 3


def test_a_read_that_found_nothing_gives_its_placeholder_back(near: NearCache) -> None:
    """And only its own: a later read of the key has another."""
    first, second = near.begin(b"k", 0), near.begin(b"k", 0)
    near.forget(first)
    near.keep(second, b"record", 2, 60.0)
    assert near.get(b"k", pytest.fail) == 2


def test_the_first_read_starts_the_tracking(near: NearCache) -> None:
    """A process that reads nothing needs no connection for it."""
    calls: list[int] = []
    near.on_read = lambda: calls.append(1)
    near.begin(b"k", 0)
    assert calls == [1]


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
    for node in (0, 1):
        near.tracking_lost(node)
        near.tracking_opened(node)
    for key in range(40):
        assert near.get(b"%d" % key, pytest.fail) is MISS
    assert (len(near), near.size) == (0, 0)
    near.keep(near.begin(b"key", 0), b"x" * 498, b"", 60.0)
    assert len(near) == 0
    near.keep(near.begin(b"key", 0), b"x" * 497, b"", 60.0)
    assert (len(near), near.size) == (1, 500)
    near.drop_all()
    assert near.size == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_copies_of_a_lost_node_are_not_looked_for(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million of them would hold the lock for a second. They are not used, and those of other nodes are."""
    near = NearCache(NearOptions(max_entries=100, policy=policy), SYSTEM_CLOCK)
    for node in (0, 1):
        near.tracking_opened(node)
        near.keep(near.begin(b"%d" % node, node), b"record", node, 60.0)
    for name in ("items", "clear", "drop"):
        monkeypatch.setattr(POLICIES[policy], name, pytest.fail)
    near.tracking_lost(0)
    assert [near.has_copy(b"%d" % node) for node in (0, 1)] == [False, True]
    near.tracking_opened(0)
    assert [near.has_copy(b"%d" % node) for node in (0, 1)] == [False, True]
    near.drop_all()
    assert not near.has_copy(b"1")


def test_copies_of_one_moment_share_the_time_of_their_end() -> None:
    """Rounded down, so that none is used too long."""
    clock = StillClock()
    near = NearCache(NearOptions(max_entries=10, max_age=5.0), clock)
    near.tracking_opened(0)
    for key, seconds in ((b"a", 3.0), (b"b", 3.01), (b"c", 2.0)):
        near.keep(near.begin(key, 0), b"record", 1, seconds)
    ends = {key: copy.until - clock.monotonic() for key, copy in near._copies.items()}
    assert 2.9 < ends[b"a"] <= 3.0
    assert 1.9 < ends[b"c"] <= 2.0
    copies = dict(near._copies.items())
    assert copies[b"a"].until is copies[b"b"].until


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
