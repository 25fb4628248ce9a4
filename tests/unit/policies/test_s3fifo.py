"""Which entries the policy stores: S3-FIFO."""

from __future__ import annotations

import random

from cachebackend.policies import POLICIES, S3FIFO


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
