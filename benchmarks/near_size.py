"""A near cache with very many copies: the memory of a copy, and for how long its lock is held.

The copies are strings of 100 characters under keys of 18 bytes. The memory is that of the process, key
and value included, before anything is evicted.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.goals import Goal, Measured

__all__ = ["GOALS", "measure"]

COPIES, QUICK_COPIES = 1_000_000, 100_000
#: Bytes, and seconds.
MOST_BYTES, LONGEST_HOLD = 450, 0.01
MEMORY, HOLD = f"{MOST_BYTES} bytes", "10 ms"
LOST, ASKED = "a tracking connection is lost", "whether a key has a copy"
GOALS = (
    Goal("memory of a copy, s3fifo", MEMORY, 1.0, "at_most"),
    Goal("memory of a copy, lru", MEMORY, 1.0, "at_most"),
    Goal(LOST, HOLD, 1.0, "at_most"),
    Goal(ASKED, HOLD, 1.0, "at_most"),
)


def measure(*, quick: bool) -> Measured:
    """Fill a near cache by each policy, in a process of its own: freed memory would be used again."""
    count = QUICK_COPIES if quick else COPIES
    context = multiprocessing.get_context("spawn")
    found = {}
    for policy in ("s3fifo", "lru"):
        with context.Pool(1) as pool:
            found[policy] = pool.apply(fill, (policy, count))
    ratios = {
        (f"memory of a copy, {policy}", MEMORY): [each["bytes"] / MOST_BYTES]
        for policy, each in found.items()
    }
    for work in (LOST, ASKED):
        ratios[work, HOLD] = [each[work] / LONGEST_HOLD for each in found.values()]
    return Measured(ratios, {"copies": count, "policies": found})


def fill(policy: str, count: int) -> dict[str, float]:
    """Return the bytes of a copy, and the seconds of what once looked at every copy."""
    from cachebackend.clock import SYSTEM_CLOCK
    from cachebackend.codec import Codec
    from cachebackend.near.cache import NearCache
    from cachebackend.options.ring import NearOptions

    codec = Codec("auto")
    near = NearCache(NearOptions(max_entries=count, max_age=600.0, policy=policy), SYSTEM_CLOCK)
    near.tracking_opened(0)
    before = _resident_bytes()
    for number in range(count):
        key, value = b"site:1:key:%07d" % number, f"{number:07}".ljust(100, "x")
        near.keep(near.begin(key, 0), codec.encode(value, key), value, 600.0)
    gc.collect()
    used = (_resident_bytes() - before) / count
    asked = _seconds(lambda: near.has_copy(key))
    return {"bytes": used, ASKED: asked, LOST: _seconds(lambda: near.tracking_lost(0))}


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
