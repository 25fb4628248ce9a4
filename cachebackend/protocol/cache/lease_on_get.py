"""Leases for code that gets, loads and sets by itself: acquired by the get, presented by the set.

1. reader    get(key)           -> nothing; the lease is acquired and remembered
2. reader    loads the old row
3. writer    COMMIT, DEL key    -> the lease is gone
4. reader    set(key, old)      -> presents the lease, and is refused
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from cachebackend.codec import lease_record
from cachebackend.effects import Operation, Reply, Script, Send
from cachebackend.errors import RingCacheError
from cachebackend.protocol.cache.compare_and_set import (
    NO_EXPIRY,
    CompareAndSet,
    SetIfAbsent,
    send_conditional,
)
from cachebackend.protocol.cache.freshness import MISS
from cachebackend.protocol.cache.get import get, get_many
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.deletes import delete, delete_many
from cachebackend.protocol.ring.write import write_by

__all__ = [
    "HIT",
    "Lease",
    "get_and_lease",
    "get_many_and_lease",
    "release",
    "set_many_with_lease",
    "set_with_lease",
]

#: What a reader that missed got: a record that it may fill over; None: another process has the lease.
Lease: TypeAlias = bytes | None
_RELEASE = Script(__package__, "release")
K = TypeVar("K")

#: Returned instead of a lease: there was a value.
HIT: Any = object()


def get_and_lease(context: Context, key: bytes, missing: Any) -> Operation[tuple[Any, Any]]:
    """Return the value of a key and HIT; or ``missing`` and the lease, None if it cannot be acquired."""
    value = yield from get(context, key, MISS)
    if value is not MISS:
        return value, HIT
    leases = yield from _acquire(context, [key])
    return missing, leases[key]


def get_many_and_lease(
    context: Context, keys: Mapping[K, bytes]
) -> Operation[tuple[dict[K, Any], dict[bytes, Lease]]]:
    """Return the values of the keys that have one, by name, and the leases of the others, by key."""
    values = yield from get_many(context, keys)
    missed = dict.fromkeys(key for name, key in keys.items() if name not in values)
    return values, (yield from _acquire(context, missed)) if missed else {}


def _acquire(context: Context, keys: Iterable[bytes]) -> Operation[dict[bytes, Lease]]:
    """Acquire the lease of each key that holds nothing, in one scatter."""
    leases = {key: lease_record(context.clock.token()) for key in keys}
    writes = [
        SetIfAbsent(context.serving_node(key), key, lease, context.lease_ms) for key, lease in leases.items()
    ]
    replies = yield from send_conditional(context, writes)
    granted: dict[bytes, Lease] = dict.fromkeys(leases)
    for (key, lease), reply in zip(leases.items(), replies, strict=True):
        if reply is None:
            context.counters.cell.leases_granted += 1
            granted[key] = lease
    return granted


def release(context: Context, leases: Mapping[bytes, Lease]) -> Operation[None]:
    """Release leases that were not used by a set, so that no reader waits for them."""
    held = [(key, lease) for key, lease in leases.items() if lease is not None]
    if held:
        yield Send([(context.serving_node(key), _RELEASE.call([key], lease)) for key, lease in held])


def set_with_lease(
    context: Context, key: bytes, value: Any, ttl_ms: int | None, lease: Lease
) -> Operation[bool]:
    """Store a value that was missed before, if the key still holds its lease; return whether it does.

    A value that could be stale is dropped and counted. Without a lease another process was loading,
    and nobody knows whether this value is older than a write since then: it is dropped, too.
    """
    if ttl_ms is not None and ttl_ms <= 0:
        context.codec.encode(value)  # a value that cannot be encoded raises with any timeout
        return (yield from delete(context, key))
    [reply] = yield from _fill(context, {key: lease}, {key: value}, ttl_ms)
    if isinstance(reply, RingCacheError):
        context.reply_or(reply, None)
        return False
    return reply is not None


def set_many_with_lease(
    context: Context,
    keys: Mapping[K, bytes],
    values: Mapping[K, Any],
    ttl_ms: int | None,
    leases: Mapping[bytes, Lease],
) -> Operation[list[K]]:
    """Store values that were missed before, each if its key still holds its lease, in one scatter.

    Returns the caller's names of the keys that no node confirmed. Values that were refused because
    they could be stale are not among them.
    """
    named = {key: values[name] for name, key in keys.items()}
    if ttl_ms is not None and ttl_ms <= 0:
        unconfirmed = set((yield from delete_many(context, list(named))))
        return [name for name, key in keys.items() if key in unconfirmed]
    replies = dict(zip(named, (yield from _fill(context, leases, named, ttl_ms)), strict=True))
    return [
        name
        for name, key in keys.items()
        if isinstance(reply := replies[key], RingCacheError) and context.reply_or(reply, None) is None
    ]


def _fill(
    context: Context, leases: Mapping[bytes, Lease], values: Mapping[bytes, Any], ttl_ms: int | None
) -> Operation[list[Reply]]:
    """Replace leases by values; return a reply for each, None for one that was refused."""
    life_ms = NO_EXPIRY if ttl_ms is None else ttl_ms
    records = {key: context.codec.encode(value) for key, value in values.items()}
    fills = {
        key: CompareAndSet(context.serving_node(key), key, lease, records[key], life_ms)
        for key in values
        if (lease := leases[key]) is not None
    }
    replies: dict[bytes, Reply] = {}
    if fills:
        sending = send_conditional(context, list(fills.values()))
        answers, _ = yield from write_by(context, list(fills), sending, in_gutter=False)
        replies = dict(zip(fills, answers, strict=True))
    filled = [replies.get(key) for key in values]
    context.fills_refused(filled.count(None))
    return filled
