"""Which entries the policy stores: W-TinyLFU."""

from __future__ import annotations

import random

from cachebackend.policies import POLICIES, TinyLFU, hit_ratio


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
