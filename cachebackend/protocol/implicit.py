"""Leases for code that gets, loads and sets by itself: taken by the get, presented by the set.

1. reader    get(key)           -> nothing; the lease is taken and remembered
2. reader    loads the old row
3. writer    COMMIT, DEL key    -> the lease is gone
4. reader    set(key, old)      -> presented with the lease, and refused
"""

from __future__ import annotations

from typing import Any

from cachebackend.codec import lease_record
from cachebackend.effects import Operation
from cachebackend.errors import RingCacheError
from cachebackend.protocol.context import Context
from cachebackend.protocol.reading import get
from cachebackend.protocol.swapping import FOR_EVER, PutNew, Swap, take
from cachebackend.protocol.writing import delete

__all__ = ["HIT", "get_and_lease", "set_by_lease"]

#: In the place of a lease: there was a value.
HIT: Any = object()
_MISS = object()


def get_and_lease(context: Context, key: bytes, missing: Any) -> Operation[tuple[Any, Any]]:
    """Return the value of a key and HIT; or ``missing`` and the lease, None if it cannot be had."""
    value = yield from get(context, key, _MISS)
    if value is not _MISS:
        return value, HIT
    life_ms = max(1, int(context.options.lease_timeout * 1000))
    lease = lease_record(context.clock.token())
    [reply] = yield from take(context, [PutNew(context.ring.owner(key), key, lease, life_ms)])
    if reply is None:
        context.stats.cell.leases_granted += 1
    return missing, lease if reply is None else None


def set_by_lease(
    context: Context, key: bytes, value: Any, ttl_ms: int | None, lease: bytes | None
) -> Operation[bool]:
    """Store a value that was missed before, if its lease still stands; return whether it does.

    What would be stale is dropped and counted. Without a lease another was loading, and
    whether this value is older than a write since cannot be told: it is dropped too.
    """
    record = context.codec.encode(value)
    if ttl_ms is not None and ttl_ms <= 0:
        return (yield from delete(context, key))
    reply: Any = None
    if lease is not None:
        life = FOR_EVER if ttl_ms is None else ttl_ms
        [reply] = yield from take(context, [Swap(context.ring.owner(key), key, lease, record, life)])
    if reply is None:
        context.stats.cell.stale_sets_refused += 1
    elif isinstance(reply, RingCacheError):
        context.settle(reply, None)
        return False
    return reply is not None
