"""The eviction of Redis and Valkey: of a few keys sampled at random and a pool of earlier candidates.

``ring simulate`` uses these policies to show the hit ratio of ``allkeys-lru`` and ``allkeys-lfu``.
The near cache does not offer them: exact policies have more hits.

Source: https://redis.io/docs/latest/develop/reference/eviction/, and ``evict.c`` of Redis 7.
"""

from __future__ import annotations

import random
from itertools import count
from typing import ClassVar, Generic, TypeVar

__all__ = ["SampledLFU", "SampledLRU"]

K = TypeVar("K")
V = TypeVar("V")
#: Keys sampled at each eviction (``maxmemory-samples``).
SAMPLES = 5
#: Candidates that remain in the pool for the next eviction.
POOL = 16
#: A new key's count, and the most that a count can be.
FIRST_COUNT, MAX_COUNT = 5, 255
#: The higher, the more accesses a count needs to rise (``lfu-log-factor``).
LOG_FACTOR = 10


class SampledLRU(Generic[K, V]):
    """At most ``capacity`` entries; evicts the least recently used of the sampled keys.

    Args:
        capacity: The most entries.
    """

    title: ClassVar[str] = "Redis LRU"

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: dict[K, V] = {}
        #: The entry of the lowest rank among the sampled keys is evicted.
        self._ranks: dict[K, int] = {}
        #: All keys, so that one can be candidates by its index, and each key's index there.
        self._keys: list[K] = []
        self._indexes: dict[K, int] = {}
        self._pool: list[K] = []
        self._accesses = count()
        self._random = random.Random(0)  # noqa: S311  # a simulation, not a secret

    def get(self, key: K) -> V | None:
        """Return a key's entry and count an access; None if there is none."""
        entry = self._entries.get(key)
        if entry is not None:
            self._use(key)
        return entry

    def put(self, key: K, entry: V) -> None:
        """Store an entry, and evict others while there are more than ``capacity``."""
        if key not in self._entries:
            while len(self._entries) >= self._capacity:
                self.drop(self._worst())
            self._indexes[key] = len(self._keys)
            self._keys.append(key)
            self._insert(key)
        self._entries[key] = entry

    def drop(self, key: K) -> None:
        """Remove a key's entry, if there is one."""
        if self._entries.pop(key, None) is not None:
            del self._ranks[key]
            last = self._keys.pop()
            index = self._indexes.pop(key)
            if last != key:
                self._keys[index], self._indexes[last] = last, index

    def __len__(self) -> int:
        return len(self._entries)

    def _insert(self, key: K) -> None:
        self._ranks[key] = next(self._accesses)

    def _use(self, key: K) -> None:
        self._ranks[key] = next(self._accesses)

    def _worst(self) -> K:
        """Return the key of the lowest rank among those sampled now and those in the pool."""
        candidates = {self._keys[int(self._random.random() * len(self._keys))] for _ in range(SAMPLES)}
        candidates.update(key for key in self._pool if key in self._entries)
        worst, *self._pool = sorted(candidates, key=self._ranks.__getitem__)[: POOL + 1]
        return worst


class SampledLFU(SampledLRU[K, V]):
    """At most ``capacity`` entries; evicts the sampled key of the lowest count.

    The higher a count is, the less likely an access adds one to it. Redis also lowers counts with
    time. That is left out, because a trace need not hold times.
    """

    title: ClassVar[str] = "Redis LFU"

    def _insert(self, key: K) -> None:
        self._ranks[key] = FIRST_COUNT

    def _use(self, key: K) -> None:
        uses = self._ranks[key]
        probability = 1 / (max(0, uses - FIRST_COUNT) * LOG_FACTOR + 1)
        if uses < MAX_COUNT and self._random.random() < probability:
            self._ranks[key] = uses + 1
