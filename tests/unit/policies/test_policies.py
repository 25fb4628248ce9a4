"""Which entries each policy stores, and that it never stores more than its capacity."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachebackend.policies import LFU, LRU, POLICIES, S3FIFO, TinyLFU, hit_ratio

STEPS = ("request", "drop", "evict", "clear")


@pytest.mark.parametrize("name", POLICIES)
@given(
    capacity=st.integers(1, 12),
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 30)), max_size=200),
)
def test_a_policy_stores_at_most_its_capacity_and_always_the_last_entry(
    name: str, capacity: int, steps: list[tuple[str, int]]
) -> None:
    """In any order of requests, drops, evictions and clears; `put` returns exactly the entries removed."""
    policy = POLICIES[name](capacity)
    stored: set[tuple[int, int]] = set()
    for number, (step, key) in enumerate(steps):
        if step == "drop":
            stored -= {policy.drop(key)}
            assert policy.get(key) is None
        elif step == "evict":
            if stored:
                stored.remove(policy.evict())
        elif step == "clear":
            policy.clear()
            stored.clear()
            assert len(policy) == 0
        else:
            entry = policy.get(key)
            assert entry is None or entry[0] == key
            removed = policy.put(key, (key, number))
            stored.add((key, number))
            assert stored.issuperset(removed)
            stored.difference_update(removed)
            if capacity == 1:
                assert policy.get(key) in {(key, number), None}
            else:
                assert policy.get(key) == (key, number)
        assert len(policy) <= capacity
        assert {entry for _, entry in policy.items()} == stored
        assert len(policy) == len(stored)


@pytest.mark.parametrize("name", ["s3fifo", "tinylfu"])
def test_a_policy_hits_as_often_when_its_caller_limits_the_entries(name: str) -> None:
    """By bytes, say: a caller that evicts down to 100 entries hits almost as often as a capacity of 100."""
    keys = random.Random(0).choices(range(5000), [1 / rank**0.9 for rank in range(1, 5001)], k=30_000)

    class Bounded:
        """A policy of 10,000 entries whose caller allows 100."""

        title = "bounded"

        def __init__(self, capacity: int) -> None:
            self.policy = POLICIES[name](capacity)
            self.get = self.policy.get

        def put(self, key: int, entry: bool) -> None:
            self.policy.put(key, entry)
            while len(self.policy) > 100:
                self.policy.evict()

    bounded = hit_ratio(Bounded(10_000), keys)
    assert bounded > 1.1 * hit_ratio(POLICIES["lru"](100), keys)
    assert bounded > 0.9 * hit_ratio(POLICIES[name](100), keys)


def test_lru_evicts_the_least_recently_used() -> None:
    """A get is an access."""
    lru: LRU[str, int] = LRU(2)
    lru.put("a", 1)
    lru.put("b", 2)
    lru.get("a")
    lru.put("c", 3)
    assert [key for key, _ in lru.items()] == ["a", "c"]


def test_s3fifo_keeps_repeated_keys_through_a_scan() -> None:
    """A thousand keys that are requested once evict at most a tenth of the keys requested again."""
    cache: S3FIFO[int, int] = S3FIFO(100)
    for _ in range(4):
        for key in range(50):
            if cache.get(key) is None:
                cache.put(key, key)
    for key in range(1000, 2000):
        cache.put(key, key)
    assert sum(cache.get(key) is not None for key in range(50)) >= 45


def test_s3fifo_hits_more_than_lru_where_many_keys_come_once() -> None:
    """As in real traces, which `benchmarks/near_traces.py` reads."""
    chance = random.Random(1)
    keys = [chance.randrange(200) if chance.random() < 0.5 else 10_000 + n for n in range(20_000)]
    hits = {}
    for name, make in POLICIES.items():
        cache = make(100)
        hits[name] = 0
        for key in keys:
            if cache.get(key) is None:
                cache.put(key, True)
            else:
                hits[name] += 1
    assert hits["s3fifo"] > hits["lru"] * 1.2


def test_lfu_evicts_the_least_frequently_used() -> None:
    """Of several with the same count, the one that was stored first."""
    lfu: LFU[str, int] = LFU(3)
    for key in "abc":
        lfu.put(key, 1)
    for key in "aab":
        lfu.get(key)
    lfu.put("d", 1)
    assert {key for key, _ in lfu.items()} == {"a", "b", "d"}
    lfu.put("e", 1)
    assert {key for key, _ in lfu.items()} == {"a", "b", "e"}


def test_lfu_stores_nothing_of_dropped_keys() -> None:
    """However often keys are dropped and stored again."""
    lfu: LFU[int, int] = LFU(2)
    for turn in range(100):
        lfu.put(turn % 3, turn)
        lfu.drop(turn % 3)
    assert len(lfu) == 0
    lfu.put(1, 1)
    assert lfu.items() == [(1, 1)]


def test_tinylfu_keeps_repeated_keys_through_a_scan() -> None:
    """Ten thousand keys that are requested once evict at most a quarter of the keys requested again."""
    cache: TinyLFU[int, int] = TinyLFU(100)
    for _ in range(10):
        for key in range(80):
            if cache.get(key) is None:
                cache.put(key, key)
    for key in range(1000, 11_000):
        if cache.get(key) is None:
            cache.put(key, key)
    assert sum(cache.get(key) is not None for key in range(80)) >= 60


def test_tinylfu_adapts_its_window() -> None:
    """Where recent requests matter more than frequent ones, it grows the window and hits more than LFU."""
    chance = random.Random(1)
    recent = [n // 4 + chance.randrange(60) for n in range(40_000)]
    skewed = [int(5000 * chance.random() ** 4) for _ in range(40_000)]
    assert hit_ratio(POLICIES["tinylfu"](100), recent) > 2 * hit_ratio(POLICIES["lfu"](100), recent)
    assert hit_ratio(POLICIES["tinylfu"](100), skewed) > hit_ratio(POLICIES["lru"](100), skewed)
