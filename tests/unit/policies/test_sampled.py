"""How Redis evicts, simulated."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.policies.sampled import SampledLFU, SampledLRU


@pytest.mark.parametrize("policy", [SampledLRU, SampledLFU])
def test_the_same_requests_evict_the_same_keys(policy: type[SampledLRU[int, int]]) -> None:
    """The random numbers have a fixed seed, so a simulation can be repeated."""
    one, other = policy(10), policy(10)
    for each in (one, other):
        for key in range(100):
            each.put(key, key)
    assert [one.get(key) for key in range(100)] == [other.get(key) for key in range(100)]
    assert len(one) == 10


@pytest.mark.parametrize("policy", [SampledLRU, SampledLFU])
def test_a_dropped_key_is_never_sampled_again(policy: type[SampledLRU[int, int]]) -> None:
    """In any order of puts and drops."""
    cache = policy(20)
    for key in range(500):
        cache.put(key, key)
        cache.drop(key - 7)
        cache.drop(-1)
        assert cache.get(key - 7) is None
    assert len(cache) <= 20


def test_lru_evicts_a_key_that_was_not_accessed_lately() -> None:
    """Ten keys that are accessed all the time stay through two hundred others."""
    cache: SampledLRU[int, int] = SampledLRU(50)
    for turn in range(200):
        for key in range(10):
            if cache.get(key) is None:
                cache.put(key, key)
        cache.put(1000 + turn, turn)
    assert all(cache.get(key) is not None for key in range(10))


@pytest.mark.parametrize("policy", [SampledLRU, SampledLFU])
def test_a_sampled_policy_keeps_the_keys_in_use(policy: Any) -> None:
    """And never more than its capacity."""
    cache = policy(50)
    for turn in range(200):
        for key in range(10):
            if cache.get(key) is None:
                cache.put(key, key)
        cache.put(1000 + turn, turn)
        assert len(cache) <= 50
    assert sum(cache.get(key) is not None for key in range(10)) >= 9
