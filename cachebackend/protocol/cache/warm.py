"""Warm reads: while a ring changes, a miss at the new owner copies the value from the old owner.

The reader holds the lease of the new owner, so a delete there revokes the copy like any fill;
``protocol.ring.ring_change`` explains why the order of deletes makes that enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from cachebackend.effects import Operation, Send
from cachebackend.protocol.cache.compare_and_set import NO_EXPIRY, CompareAndSet, send_conditional
from cachebackend.protocol.cache.freshness import can_warm
from cachebackend.protocol.cache.lease import LeaseRequest
from cachebackend.protocol.context import Context

__all__ = ["warm"]

K = TypeVar("K")


def warm(context: Context, leases: Mapping[K, LeaseRequest]) -> Operation[dict[K, bytes]]:
    """Fill leased keys with the values of the old ring; return their records, by name.

    Values that are stale or due for a refresh, or have tags, are left to the loader.
    """
    other = context.ring_change
    if other is None or not other.is_warm:
        return {}
    owners = {
        name: other.owner(lease.key)
        for name, lease in leases.items()
        if lease.current is None and other.owner(lease.key) != lease.node
    }
    if not owners:
        return {}
    replies = yield Send(
        [
            request
            for name, node in owners.items()
            for request in ((node, (b"GET", leases[name].key)), (node, (b"PTTL", leases[name].key)))
        ]
    )
    found = {
        name: (record, ttl_ms)
        for name, record, ttl_ms in zip(owners, replies[::2], replies[1::2], strict=True)
        if can_warm(context, leases[name].key, record) and isinstance(ttl_ms, int) and ttl_ms not in {0, -2}
    }
    fills = [
        CompareAndSet(
            leases[name].node,
            leases[name].key,
            leases[name].record,
            record,
            ttl_ms if ttl_ms > 0 else NO_EXPIRY,
        )
        for name, (record, ttl_ms) in found.items()
    ]
    if fills:
        filled = yield from send_conditional(context, fills)
        context.fills_refused(filled.count(None))
    return {name: record for name, (record, _) in found.items()}
