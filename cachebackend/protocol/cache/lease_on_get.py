"""Leases for code that gets, loads and sets by itself: taken by the get, presented by the set.

1. reader    get(key)           -> nothing; the lease is taken and remembered
2. reader    loads the old row
3. writer    COMMIT, DEL key    -> the lease is gone
4. reader    set(key, old)      -> presented with the lease, and refused
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from cachebackend.codec import lease_record
from cachebackend.effects import Operation, Reply, Script, Send
from cachebackend.errors import RingCacheError
from cachebackend.protocol.cache.compare_and_set import NO_EXPIRY, CompareAndSet, SetIfAbsent, take
from cachebackend.protocol.cache.get import get, get_many
from cachebackend.protocol.cache.set import delete, delete_many
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.ring_change import tell_entered, tell_left

__all__ = [
    "HIT",
    "Lease",
    "get_and_lease",
    "get_many_and_lease",
    "release",
    "set_many_with_lease",
    "set_with_lease",
]

#: What a miss left the reader with: a record that it may fill over; None: another has it.
Lease: TypeAlias = bytes | None
_RELEASE = Script(__package__, "release")
K = TypeVar("K")

#: In the place of a lease: there was a value.
HIT: Any = object()
_MISS = object()


def get_and_lease(context: Context, key: bytes, missing: Any) -> Operation[tuple[Any, Any]]:
    """Return the value of a key and HIT; or ``missing`` and the lease, None if it cannot be had."""
    value = yield from get(context, key, _MISS)
    if value is not _MISS:
        return value, HIT
    leases = yield from _take_leases(context, [key])
    return missing, leases[key]


def get_many_and_lease(
    context: Context, keys: Mapping[K, bytes]
) -> Operation[tuple[dict[K, Any], dict[bytes, Lease]]]:
    """Return the values of those keys that have one, by name, and the leases of the others, by key."""
    found = yield from get_many(context, keys)
    missed = dict.fromkeys(key for name, key in keys.items() if name not in found)
    return found, (yield from _take_leases(context, missed)) if missed else {}


def _take_leases(context: Context, keys: Iterable[bytes]) -> Operation[dict[bytes, Lease]]:
    """Take the lease of each key where nothing stands, all in one scatter."""
    leases = {key: lease_record(context.clock.token()) for key in keys}
    puts = [
        SetIfAbsent(context.serving_node(key), key, lease, context.lease_ms) for key, lease in leases.items()
    ]
    replies = yield from take(context, puts)
    granted: dict[bytes, Lease] = dict.fromkeys(leases)
    for (key, lease), reply in zip(leases.items(), replies, strict=True):
        if reply is None:
            context.counters.cell.leases_granted += 1
            granted[key] = lease
    return granted


def release(context: Context, leases: Mapping[bytes, Lease]) -> Operation[None]:
    """Give back leases that nothing was set by, so that nobody waits for it."""
    held = [(key, lease) for key, lease in leases.items() if lease is not None]
    if held:
        yield Send([(context.serving_node(key), _RELEASE.call([key], lease)) for key, lease in held])


def set_with_lease(
    context: Context, key: bytes, value: Any, ttl_ms: int | None, lease: Lease
) -> Operation[bool]:
    """Store a value that was missed before, if its lease still stands; return whether it does.

    What would be stale is dropped and counted. Without a lease another was loading, and
    whether this value is older than a write since cannot be told: it is dropped too.
    """
    if ttl_ms is not None and ttl_ms <= 0:
        context.codec.encode(value)  # what cannot be stored raises, whatever its timeout
        return (yield from delete(context, key))
    [reply] = yield from _swap(context, {key: lease}, {key: value}, ttl_ms)
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
    """Store values that were missed before, each if its lease still stands, in one scatter.

    Returns the caller's names of those that no node confirmed; what was refused as it would
    be stale is not among them.
    """
    named = {key: values[name] for name, key in keys.items()}
    if ttl_ms is not None and ttl_ms <= 0:
        left = set((yield from delete_many(context, list(named))))
        return [name for name, key in keys.items() if key in left]
    replies = dict(zip(named, (yield from _swap(context, leases, named, ttl_ms)), strict=True))
    return [
        name
        for name, key in keys.items()
        if isinstance(reply := replies[key], RingCacheError) and context.reply_or(reply, None) is None
    ]


def _swap(
    context: Context, leases: Mapping[bytes, Lease], values: Mapping[bytes, Any], ttl_ms: int | None
) -> Operation[list[Reply]]:
    """Put values in the places of leases; return a reply for each, None for what was refused."""
    life = NO_EXPIRY if ttl_ms is None else ttl_ms
    records = {key: context.codec.encode(value) for key, value in values.items()}
    swaps = {
        key: CompareAndSet(context.serving_node(key), key, lease, records[key], life)
        for key in values
        if (lease := leases[key]) is not None
    }
    replies: dict[bytes, Reply] = {}
    if swaps:
        yield from tell_left(context, list(swaps))
        replies = dict(zip(swaps, (yield from take(context, list(swaps.values()))), strict=True))
        yield from tell_entered(context, list(swaps))
    filled = [replies.get(key) for key in values]
    context.fills_refused(filled.count(None))
    return filled
