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


def test_an_entry_that_is_dropped_does_not_take_part_any_more() -> None:
    """If its key is stored again, it is the last in its queue, not where it was."""
    cache: S3FIFO[str, int] = S3FIFO(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.drop("a") == 1
    assert cache.put("a", 3) == []
    assert cache.put("c", 4) == [2]
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (3, None, 4)


def test_dropped_entries_do_not_pile_up() -> None:
    """Keys are stored and dropped again and again in a cache that is never full."""
    cache: S3FIFO[int, int] = S3FIFO(10_000)
    chance = random.Random(1)
    for key in range(100):
        cache.put(key, key)
    for _ in range(5000):
        key = chance.randrange(100)
        assert cache.drop(key) == key
        cache.put(key, key)
    queued = [len(queue._older) + len(queue._younger) for queue in (cache._small, cache._main)]
    assert sum(queued) <= 200
    assert (len(cache), cache._small.count + cache._main.count) == (100, 100)


def test_the_queues_know_how_many_entries_they_have() -> None:
    """The counts of both queues stay right while keys are stored, read and dropped in any order."""
    cache: S3FIFO[int, int] = S3FIFO(50)
    chance = random.Random(2)
    for number in range(20_000):
        key = chance.randrange(120)
        match chance.randrange(4):
            case 0:
                cache.drop(key)
            case 1:
                cache.get(key)
            case _:
                for removed in cache.put(key, number):
                    assert removed < number
        in_small = sum(not cell.is_main for cell in cache._cells.values())
        assert (cache._small.count, cache._main.count) == (in_small, len(cache) - in_small)
        assert len(cache) <= 50


def test_ghosts_are_bounded() -> None:
    """Also the hashes of keys that came back."""
    cache: S3FIFO[int, int] = S3FIFO(10)
    chance = random.Random(3)
    for _ in range(5000):
        cache.put(chance.randrange(30), 1)
    assert len(cache._ghosts._hashes) <= 10
    assert len(cache._ghosts._order) <= 20
