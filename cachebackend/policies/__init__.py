"""Eviction policies: which entry of a bounded mapping is removed to make room for another.

The near cache stores its copies in one of them, and ``ring simulate`` compares them on a trace.
``s3fifo`` and ``tinylfu`` have more hits than ``lru`` where many keys are requested only once;
``lfu`` never lowers an entry's count of accesses. The package imports nothing of this project. It
never looks at the time, locks or connects.

To add a policy, write a class that implements ``Policy`` and add it to ``POLICIES``; settings,
simulation, tests and benchmarks read that table.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Any

from cachebackend.policies.lfu import LFU
from cachebackend.policies.lru import LRU
from cachebackend.policies.policy import Policy, SimulatedPolicy
from cachebackend.policies.s3fifo import S3FIFO
from cachebackend.policies.tinylfu import TinyLFU

__all__ = ["LFU", "LRU", "POLICIES", "S3FIFO", "Policy", "SimulatedPolicy", "TinyLFU", "hit_ratio"]

#: The policies that ``OPTIONS["near"]["policy"]`` may name.
POLICIES: dict[str, type[Policy[Any, Any]]] = {
    "lru": LRU,
    "lfu": LFU,
    "tinylfu": TinyLFU,
    "s3fifo": S3FIFO,
}


def hit_ratio(
    policy: SimulatedPolicy[Any, bool], keys: Iterable[Any], writes: Iterable[Any] = repeat(False)
) -> float:
    """Return the share of reads, 0 to 1, that hit; a read that misses stores its key.

    Args:
        policy: An empty policy.
        keys: The key of each request.
        writes: Whether each request is a write. A write stores its key and is not a read.
    """
    hits = reads = 0
    for key, is_write in zip(keys, writes):  # noqa: B905  # the writes may have no end
        if is_write:
            policy.put(key, True)
            continue
        reads += 1
        if policy.get(key) is None:
            policy.put(key, True)
        else:
            hits += 1
    return hits / reads if reads else 0.0
