"""Which entry of a bounded memory gives way to another: eviction policies, as plain mappings.

A policy keeps at most so many entries and decides alone which. It knows nothing of time,
nodes or threads, but a ``get`` may run beside another or a ``put``: what it notes of a use may be
lost, and nothing else. ``s3fifo`` and ``tinylfu`` find more than ``lru`` where many keys are asked for
once; ``lfu`` never forgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

from cachebackend.policies.lfu import LFU
from cachebackend.policies.lru import LRU
from cachebackend.policies.s3fifo import S3FIFO
from cachebackend.policies.tinylfu import TinyLFU

__all__ = ["LFU", "LRU", "POLICIES", "S3FIFO", "TinyLFU", "hit_ratio"]

#: The policies by the names that settings have for them; each takes the most entries.
POLICIES: dict[str, Callable[[int], Any]] = {
    "lfu": LFU,
    "lru": LRU,
    "s3fifo": S3FIFO,
    "tinylfu": TinyLFU,
}


def hit_ratio(policy: Any, keys: Iterable[Any], writes: Iterable[Any] = repeat(False)) -> float:
    """Return the share of reads, 0 to 1, that find their key, when each that does not puts it.

    Args:
        policy: What keeps the keys.
        keys: The key of each request.
        writes: Whether each request writes: puts its key, and reads nothing.
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
