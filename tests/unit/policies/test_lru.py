"""Which entries the policy stores: least recently used."""

from __future__ import annotations

from cachebackend.policies import LRU


def test_lru_evicts_the_least_recently_used() -> None:
    """A get is an access."""
    lru: LRU[str, int] = LRU(2)
    lru.put("a", 1)
    lru.put("b", 2)
    lru.get("a")
    lru.put("c", 3)
    assert [key for key, _ in lru.items()] == ["a", "c"]
