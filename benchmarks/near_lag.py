"""How soon a near copy in another process is dropped after a write, and that a process reads its own writes.

A writer sets a key, reads it back, and records when the node confirmed the set; other processes read
the key from their near caches all the time. The lag ends with the first read that returns the new value.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from typing import Any

from benchmarks.goals import Goal, Measured
from benchmarks.herd import set_up
from cacheproject.services import Services

READERS, WRITES = 2, 2_000
MAX_AGE = 5.0
GOALS = (Goal("age of a near copy", "max_age", 1.0, "at_most"),)
KEY = "watched"


def near_cache(urls: list[str]) -> Any:
    """Return a cache with a near cache."""
    from cachebackend import RingCache

    return RingCache(urls, {"KEY_PREFIX": "lag", "OPTIONS": {"near": {"max_age": MAX_AGE}}})


def watch(urls: list[str], confirmed: Any, seen: Any, found: Any) -> None:
    """Read the key until the last write was seen; put the lags and the numbers of reads and near hits."""
    cache = near_cache(urls)
    lags: list[float] = []
    version = reads = 0
    while version < WRITES:
        value, now = cache.get(KEY) or 0, time.monotonic()
        reads += 1
        time.sleep(0)  # without it, this thread makes the one that gets invalidations wait for 5 ms
        if value > version:
            # The writer waits for every reader, so this is the write that it recorded last
            while not confirmed[0] >= value:
                pass
            lags.append(max(0.0, now - confirmed[1]))
            version = value
            # A copy of the new value must be stored before the next write can invalidate it
            copies = cache.client.counters.total().near_hits
            while cache.client.counters.total().near_hits == copies:
                cache.get(KEY)
            with seen.get_lock():
                seen.value += 1
    found.put((lags, reads, cache.client.counters.total().near_hits))
    cache.client.close()


def lag(urls: list[str]) -> dict[str, Any]:
    """Return the results; times in milliseconds."""
    fork = multiprocessing.get_context("fork")
    confirmed, seen, found = fork.Array("d", 2, lock=False), fork.Value("l", 0), fork.Queue()
    readers = [fork.Process(target=watch, args=(urls, confirmed, seen, found)) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    cache, unseen = near_cache(urls), 0
    for version in range(1, WRITES + 1):
        cache.set(KEY, version, None)
        confirmed[1] = time.monotonic()
        confirmed[0] = version
        unseen += cache.get(KEY) != version
        while seen.value < READERS * version:
            time.sleep(0)
    results = [found.get() for _ in readers]
    for reader in readers:
        reader.join()
    cache.client.close()
    lags = sorted(1000 * lag for each, _, _ in results for lag in each)
    return {
        "writes": WRITES,
        "readers": READERS,
        "reads": sum(reads for _, reads, _ in results),
        "own_writes_not_seen": unseen,
        "median_ms": round(statistics.median(lags), 3),
        "p99_ms": round(lags[int(len(lags) * 0.99)], 3),
        "worst_ms": round(lags[-1], 3),
    }


def measure(*, quick: bool) -> Measured:
    """Measure the age of copies; a quick run is the same."""
    del quick
    with Services(ring=3, queue=0, postgres=False) as services:
        set_up(services)
        results = lag(services.ring_urls)
    if results["own_writes_not_seen"]:
        message = f"the writer did not see {results['own_writes_not_seen']} of its own writes"
        raise RuntimeError(message)
    [goal] = GOALS
    return Measured({(goal.work, goal.compared_with): [results["worst_ms"] / 1000 / MAX_AGE]}, results)
