"""What each policy keeps, and that it never keeps more than it may."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachebackend.policies import LRU, POLICIES, S3FIFO


@pytest.mark.parametrize("name", POLICIES)
@given(
    capacity=st.integers(1, 12),
    steps=st.lists(st.tuples(st.sampled_from(["ask", "drop", "clear"]), st.integers(0, 30)), max_size=200),
)
def test_it_holds_at_most_its_capacity_and_what_was_put_last(
    name: str, capacity: int, steps: list[tuple[str, int]]
) -> None:
    """Whatever is asked for and dropped; what it returns is what was put."""
    policy = POLICIES[name](capacity)
    for at, (step, key) in enumerate(steps):
        if step == "drop":
            policy.drop(key)
            assert policy.get(key) is None
        elif step == "clear":
            policy.clear()
            assert len(policy) == 0
        else:
            held = policy.get(key)
            assert held is None or held[0] == key
            policy.put(key, (key, at))
            assert policy.get(key) in {(key, at), None} if capacity == 1 else policy.get(key) == (key, at)
        assert len(policy) <= capacity
        assert len(policy.items()) == len(policy)


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
