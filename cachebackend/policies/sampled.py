"""How Redis and Valkey evict: the worst of a few keys drawn at random, and of the best found before.

These are for ``ring simulate``, to tell what ``allkeys-lru`` and ``allkeys-lfu`` would find; the
near cache has better ones.

Source: https://redis.io/docs/latest/develop/reference/eviction/, and ``evict.c`` of Redis 7.
"""

from __future__ import annotations

import random
from itertools import count
from typing import Generic, TypeVar

__all__ = ["SampledLFU", "SampledLRU"]

K = TypeVar("K")
V = TypeVar("V")
#: Keys drawn at an eviction (``maxmemory-samples``), and kept from one to the next.
SAMPLES, POOL = 5, 16
#: What a new key counts for, what a count rises to at most, and how slowly (``lfu-log-factor``).
FIRST_COUNT, MOST_COUNT, LOG_FACTOR = 5, 255, 10


class SampledLRU(Generic[K, V]):
    """At most so many entries; the one that was used longest ago of those drawn gives way.

    Args:
        capacity: The most entries.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: dict[K, V] = {}
        self._ranks: dict[K, int] = {}
        self._keys: list[K] = []
        self._at: dict[K, int] = {}
        self._pool: list[K] = []
        self._moments = count()
        self._chance = random.Random(0)  # noqa: S311  # a simulation, not a secret

    def get(self, key: K) -> V | None:
        """Return an entry, as used now; None if there is none."""
        entry = self._entries.get(key)
        if entry is not None:
            self._use(key)
        return entry

    def put(self, key: K, entry: V) -> None:
        """Keep an entry."""
        if key not in self._entries:
            while len(self._entries) >= self._capacity:
                self.drop(self._worst())
            self._at[key] = len(self._keys)
            self._keys.append(key)
            self._begin(key)
        self._entries[key] = entry

    def drop(self, key: K) -> None:
        """Forget an entry."""
        if self._entries.pop(key, None) is not None:
            del self._ranks[key]
            last = self._keys.pop()
            at = self._at.pop(key)
            if last != key:
                self._keys[at], self._at[last] = last, at

    def __len__(self) -> int:
        return len(self._entries)

    def _begin(self, key: K) -> None:
        self._ranks[key] = next(self._moments)

    def _use(self, key: K) -> None:
        self._ranks[key] = next(self._moments)

    def _worst(self) -> K:
        """Return the entry of the lowest rank among those drawn now and kept from before."""
        drawn = {self._keys[int(self._chance.random() * len(self._keys))] for _ in range(SAMPLES)}
        drawn.update(key for key in self._pool if key in self._entries)
        worst, *self._pool = sorted(drawn, key=self._ranks.__getitem__)[: POOL + 1]
        return worst


class SampledLFU(SampledLRU[K, V]):
    """At most so many entries; the one of the lowest count of those drawn gives way.

    A count rises the more seldom the higher it is; that it falls with time is left out, for a
    trace need not tell the time.
    """

    def _begin(self, key: K) -> None:
        self._ranks[key] = FIRST_COUNT

    def _use(self, key: K) -> None:
        standing = self._ranks[key]
        chance = 1 / (max(0, standing - FIRST_COUNT) * LOG_FACTOR + 1)
        if standing < MOST_COUNT and self._chance.random() < chance:
            self._ranks[key] = standing + 1
