"""Which entries each policy stores, and that it never stores more than its capacity."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachebackend.policies import POLICIES, hit_ratio

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
