"""What each policy keeps, and that it never keeps more than it may."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachebackend.policies import LFU, LRU, POLICIES, S3FIFO, TinyLFU, hit_ratio

STEPS = ("ask", "drop", "evict", "clear")


@pytest.mark.parametrize("name", POLICIES)
@given(
    capacity=st.integers(1, 12),
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 30)), max_size=200),
)
def test_it_holds_at_most_its_capacity_and_what_was_put_last(
    name: str, capacity: int, steps: list[tuple[str, int]]
) -> None:
    """Whatever is asked for and dropped; what it returns is what was put, and what gives way is told."""
    policy = POLICIES[name](capacity)
    standing: set[tuple[int, int]] = set()
    for at, (step, key) in enumerate(steps):
        if step == "drop":
            standing -= {policy.drop(key)}
            assert policy.get(key) is None
        elif step == "evict":
            if standing:
                standing.remove(policy.evict())
        elif step == "clear":
            policy.clear()
            standing.clear()
            assert len(policy) == 0
        else:
            held = policy.get(key)
            assert held is None or held[0] == key
            gone = policy.put(key, (key, at))
            standing.add((key, at))
            assert standing.issuperset(gone)
            standing.difference_update(gone)
            assert policy.get(key) in {(key, at), None} if capacity == 1 else policy.get(key) == (key, at)
        assert len(policy) <= capacity
        assert {entry for _, entry in policy.items()} == standing
        assert len(policy) == len(standing)


@pytest.mark.parametrize("name", ["s3fifo", "tinylfu"])
def test_it_keeps_as_much_where_another_bound_is_nearer(name: str) -> None:
    """Of bytes, say: it is little worse than one that may hold just so many."""
    keys = random.Random(0).choices(range(5000), [1 / at**0.9 for at in range(1, 5001)], k=30_000)

    class Bounded:
        """At most a hundred entries of ten thousand."""

        def __init__(self) -> None:
            self.policy = POLICIES[name](10_000)
            self.get = self.policy.get

        def put(self, key: int, entry: bool) -> None:
            self.policy.put(key, entry)
            while len(self.policy) > 100:
                self.policy.evict()

    found = hit_ratio(Bounded(), keys)
    assert found > 1.1 * hit_ratio(POLICIES["lru"](100), keys)
    assert found > 0.9 * hit_ratio(POLICIES[name](100), keys)


def test_lru_lets_the_least_recently_used_go() -> None:
    """A get is a use."""
    lru: LRU[str, int] = LRU(2)
    lru.put("a", 1)
    lru.put("b", 2)
    lru.get("a")
    lru.put("c", 3)
    assert [key for key, _ in lru.items()] == ["a", "c"]


def test_s3fifo_keeps_what_is_asked_for_again_through_a_scan() -> None:
    """A thousand keys that are asked for once push nothing out."""
    cache: S3FIFO[int, int] = S3FIFO(100)
    for _ in range(4):
        for key in range(50):
            if cache.get(key) is None:
                cache.put(key, key)
    for key in range(1000, 2000):
        cache.put(key, key)
    assert sum(cache.get(key) is not None for key in range(50)) >= 45


def test_s3fifo_finds_more_than_lru_where_many_keys_come_once() -> None:
    """As on real traces; `benchmarks/near_traces.py` has those."""
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


def test_lfu_lets_the_least_often_used_go() -> None:
    """Of several that were used as often, the one that came first."""
    lfu: LFU[str, int] = LFU(3)
    for key in "abc":
        lfu.put(key, 1)
    for key in "aab":
        lfu.get(key)
    lfu.put("d", 1)
    assert {key for key, _ in lfu.items()} == {"a", "b", "d"}
    lfu.put("e", 1)
    assert {key for key, _ in lfu.items()} == {"a", "b", "e"}


def test_lfu_forgets_what_was_dropped() -> None:
    """However often, and whatever comes in its place."""
    lfu: LFU[int, int] = LFU(2)
    for turn in range(100):
        lfu.put(turn % 3, turn)
        lfu.drop(turn % 3)
    assert len(lfu) == 0
    lfu.put(1, 1)
    assert lfu.items() == [(1, 1)]


def test_tinylfu_keeps_what_is_asked_for_again_through_a_scan() -> None:
    """Ten thousand keys that are asked for once push hardly anything out."""
    cache: TinyLFU[int, int] = TinyLFU(100)
    for _ in range(10):
        for key in range(80):
            if cache.get(key) is None:
                cache.put(key, key)
    for key in range(1000, 11_000):
        if cache.get(key) is None:
            cache.put(key, key)
    assert sum(cache.get(key) is not None for key in range(80)) >= 60


def test_tinylfu_finds_its_window() -> None:
    """Where only what was asked for lately counts, it comes to find more than frequency would."""
    chance = random.Random(1)
    recent = [at // 4 + chance.randrange(60) for at in range(40_000)]
    skewed = [int(5000 * chance.random() ** 4) for _ in range(40_000)]
    assert hit_ratio(POLICIES["tinylfu"](100), recent) > 2 * hit_ratio(POLICIES["lfu"](100), recent)
    assert hit_ratio(POLICIES["tinylfu"](100), skewed) > hit_ratio(POLICIES["lru"](100), skewed)
