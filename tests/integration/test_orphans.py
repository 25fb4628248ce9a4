"""Leases whose request got no reply: the process that gave them up releases them on the real node."""

from __future__ import annotations

import pytest
from django.conf import settings

from cachebackend import RingCache
from cacheproject.services import Services
from tests.integration import held_node
from tests.integration.held_node import NODE, Probes, owner

pytestmark = [
    pytest.mark.ring_of_nodes,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),  # for the replay
]
probes, cache = held_node.probes, held_node.cache


@pytest.fixture
def other(cache: RingCache) -> RingCache:
    """The cache of another process: its client knows no lease of the first one."""
    block = settings.CACHES["default"]
    return RingCache(block["LOCATION"], block | {"OPTIONS": block.get("OPTIONS", {}) | {"jitter": 0.001}})


@pytest.mark.parametrize("way", ["another process", "the same process"])
def test_a_request_that_times_out_holds_nobody(
    cache: RingCache, other: RingCache, services: Services, probes: Probes, way: str
) -> None:
    """The node stalls, and executes the request for the lease when the caller has gone on without it."""
    key = next(key for key in (f"new{n}" for n in range(100)) if owner(cache, key).name == NODE)
    services.stop(NODE)
    try:
        assert cache.get_or_set(key, lambda: "loaded without a lease") == "loaded without a lease"
    finally:
        services.resume(NODE)
    if way == "another process":
        assert cache.get(key) is None  # the node answers again, so its leases are released
        probes.run()
    reader = other if way == "another process" else cache
    assert reader.get_or_set(key, lambda: "loaded under a lease") == "loaded under a lease"
    assert reader.client.counters.total().lease_waits == 0
    assert other.get(key) == "loaded under a lease"
