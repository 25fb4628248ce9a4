"""Leases for code that gets, loads and sets by itself: acquired by the get, presented by the set.

1. reader    get(key)           -> nothing; the lease is acquired and remembered
2. reader    loads the old row
3. writer    COMMIT, DEL key    -> the lease is gone
4. reader    set(key, old)      -> presents the lease, and is refused

A lease that has expired is refused, too, although nobody may have written: a delete leaves no trace.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from cachebackend.codec import RELEASED
from cachebackend.effects import Operation, Reply, Send
from cachebackend.errors import NodeUnavailableError, RingCacheError
from cachebackend.protocol.cache.compare_and_set import NO_EXPIRY, CompareAndSet, send_conditional
from cachebackend.protocol.cache.freshness import MISS, is_wrong_type
from cachebackend.protocol.cache.get import get, get_many
from cachebackend.protocol.cache.lease import (
    LeaseRequest,
    delete_endless,
    may_ask_again,
    request_leases,
    sort_answers,
)
from cachebackend.protocol.cache.tags import read_tokens
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.deletes import delete_many
from cachebackend.protocol.ring.node_deletes import release_command
from cachebackend.protocol.ring.write import write_by

__all__ = [
    "NOT_LEASED",
    "Lease",
    "get_and_lease",
    "get_many_and_lease",
    "release",
    "set_many_with_lease",
]

#: The record that a reader which missed may fill over; None: another process has the lease.
Lease: TypeAlias = bytes | None
K = TypeVar("K")

#: Returned instead of a lease: there was a value, or a key of another type, which any ``set`` replaces.
NOT_LEASED: Any = object()


def get_and_lease(context: Context, key: bytes, missing: Any) -> Operation[tuple[Any, Any]]:
    """Return the value of a key and NOT_LEASED; or ``missing`` and the lease, None if it was refused."""
    value = yield from get(context, key, MISS)
    if value is not MISS:
        return value, NOT_LEASED
    values, leases = yield from _acquire(context, [key])
    return values.get(key, missing), leases.get(key, NOT_LEASED)


def get_many_and_lease(
    context: Context, keys: Mapping[K, bytes], required: Collection[bytes] = ()
) -> Operation[tuple[dict[K, Any], dict[bytes, Lease]]]:
    """Return the values of the keys that have one, by name, and the leases of the others, by key.

    No lease is acquired for the ``required`` keys, whose lease the caller must present already.
    """
    values = yield from get_many(context, keys)
    missed = dict.fromkeys(key for name, key in keys.items() if name not in values and key not in required)
    if not missed:
        return values, {}
    late, leases = yield from _acquire(context, missed)
    values.update({name: late[key] for name, key in keys.items() if key in late})
    return values, leases


def _acquire(
    context: Context, keys: Iterable[bytes]
) -> Operation[tuple[dict[bytes, Any], dict[bytes, Lease]]]:
    """Acquire the lease of each key that holds no value, by the rules of ``lease``, but never wait.

    A record that is a miss to this reader is replaced: it cannot be decoded, its time is over, or
    its tags have changed. Otherwise no ``set`` could ever replace it.

    Returns:
        The values of the keys that hold one by now, and the leases of the others.
    """
    requests = {key: LeaseRequest(context.serving_node(key), key, context.clock.token()) for key in keys}
    values: dict[bytes, Any] = {}
    leases: dict[bytes, Lease] = {}
    while requests:
        replies, tokens = yield from request_leases(context, requests.values(), ())
        tokens = yield from read_tokens(context, tokens, replies)
        answered = dict(zip(requests, replies, strict=True))
        free = {key: requests[key] for key, reply in answered.items() if reply == RELEASED}
        for key, request in list(free.items()):
            request.current = RELEASED
            if not may_ask_again(context, request):
                leases[key] = None
                answered.pop(key), free.pop(key)
        answered = {
            key: reply for key, reply in answered.items() if key not in free and not is_wrong_type(reply)
        }
        asked = {key: requests[key] for key in answered}
        answers = sort_answers(context, asked, list(answered.values()), tokens, allow_stale=False)
        yield from delete_endless(context, asked.values(), answered.values())
        leases |= {key: request.record for key, request in answers.granted.items()}
        leases |= dict.fromkeys(answers.unleased)
        values |= {key: cached.value for key, cached in answers.cached.items()}
        requests = free
        for key, request in answers.retry.items():
            if request.other_lease is None:
                requests[key] = request
            else:
                leases[key] = None
    return values, leases


def release(context: Context, leases: Mapping[bytes, Lease]) -> Operation[None]:
    """Release leases that were not used by a set, so that no reader waits for them."""
    held = [(context.serving_node(key), key, lease) for key, lease in leases.items() if lease is not None]
    if not held:
        return
    replies = yield Send([(node, release_command(key, lease)) for node, key, lease in held])
    for each, reply in zip(held, replies, strict=True):
        if isinstance(reply, NodeUnavailableError):
            context.give_up(*each)


def set_many_with_lease(
    context: Context,
    keys: Mapping[K, bytes],
    values: Mapping[K, Any],
    ttl_ms: int | None,
    leases: Mapping[bytes, Lease],
) -> Operation[tuple[list[K], set[bytes]]]:
    """Store values that were missed before, each if its key still holds its lease, in one scatter.

    A value that could be stale is dropped and counted. Without a lease another process was loading,
    and nobody knows whether the value is older than a write since then: it is dropped, too.

    Returns:
        The caller's names of the keys that no node confirmed, not counting values that were dropped,
        and the keys that were stored, or deleted if the time to live is over.
    """
    named = {key: values[name] for name, key in keys.items()}
    if ttl_ms is not None and ttl_ms <= 0:
        for key, value in named.items():  # a value that cannot be encoded raises with any timeout
            context.codec.encode(value, key)
        unconfirmed = set((yield from delete_many(context, list(named))))
        return [name for name, key in keys.items() if key in unconfirmed], named.keys() - unconfirmed
    replies = dict(zip(named, (yield from _fill(context, leases, named, ttl_ms)), strict=True))
    failed = {key: reply for key, reply in replies.items() if isinstance(reply, RingCacheError)}
    for error in failed.values():
        context.reply_or(error, None)
    stored = {key for key, reply in replies.items() if reply is not None and key not in failed}
    return [name for name, key in keys.items() if key in failed], stored


def _fill(
    context: Context, leases: Mapping[bytes, Lease], values: Mapping[bytes, Any], ttl_ms: int | None
) -> Operation[list[Reply]]:
    """Replace leases by values; return a reply for each, None for one that was refused."""
    life_ms = NO_EXPIRY if ttl_ms is None else ttl_ms
    records = {key: context.codec.encode(value, key) for key, value in values.items()}
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
        for key, fill in fills.items():
            if isinstance(replies[key], NodeUnavailableError):
                context.give_up(fill.node, key, fill.old)
    filled = [replies.get(key) for key in values]
    context.fills_refused(filled.count(None))
    return filled
