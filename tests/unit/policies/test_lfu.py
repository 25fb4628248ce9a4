"""Which entries the policy stores: least frequently used."""

from __future__ import annotations

from cachebackend.policies import LFU


def test_lfu_evicts_the_least_frequently_used() -> None:
    """Of several with the same count, the one that was stored first."""
    lfu: LFU[str, int] = LFU(3)
    for key in "abc":
        lfu.put(key, 1)
    for key in "aab":
        lfu.get(key)
    lfu.put("d", 1)
    assert {key for key, _ in lfu.items()} == {"a", "b", "d"}
    lfu.put("e", 1)
    assert {key for key, _ in lfu.items()} == {"a", "b", "e"}


def test_lfu_stores_nothing_of_dropped_keys() -> None:
    """However often keys are dropped and stored again."""
    lfu: LFU[int, int] = LFU(2)
    for turn in range(100):
        lfu.put(turn % 3, turn)
        lfu.drop(turn % 3)
    assert len(lfu) == 0
    lfu.put(1, 1)
    assert lfu.items() == [(1, 1)]
