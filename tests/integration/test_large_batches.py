"""Batches of tens of megabytes: nobody waits for somebody who waits, and no node is taken for dead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cachebackend import RingCache

#: 40 MB over three nodes: more than the buffers of a socket hold on both sides together.
VALUES = {f"large:{number}": number.to_bytes(4, "big") * 50_000 for number in range(200)}


def test_forty_megabytes_go_and_come_in_one_call(ring_cache: RingCache, call: Callable[..., Any]) -> None:
    """Every value is stored and comes back; no node failed or was ejected meanwhile."""
    assert call(ring_cache, "set_many", VALUES, 60) == []
    assert call(ring_cache, "get_many", VALUES) == VALUES
    breakers = [node.breaker for node in ring_cache.client.nodes]
    assert [breaker.has_failures for breaker in breakers if breaker] == [False] * 3
    assert ring_cache.client.counters.total().node_failures == 0


def test_many_keys_are_filled_in_one_call(ring_cache: RingCache, call: Callable[..., Any]) -> None:
    """Leases for 20,000 keys are asked for, filled and found again: their answers fill no buffer."""
    keys = [f"small:{number}" for number in range(20_000)]
    values = dict.fromkeys(keys, "x" * 100)
    assert call(ring_cache, "get_or_set_many", keys, lambda names: {name: values[name] for name in names}, 60)
    assert call(ring_cache, "get_many", keys) == values
