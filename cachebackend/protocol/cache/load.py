"""Reads that load and fill what they miss: one loader for a key at a time, however many callers ask.

``lease`` explains why a fill never stores a value from before a write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from cachebackend.effects import Continue, Operation, Reply, Send
from cachebackend.errors import RingCacheError
from cachebackend.loader import in_loader
from cachebackend.protocol.cache.fill import MISSING, FillOptions, Loader, LoaderCall, load_and_fill
from cachebackend.protocol.cache.freshness import (
    NOT_PLAIN,
    CachedValue,
    fresh_value,
    read_record,
)
from cachebackend.protocol.cache.get import records_of
from cachebackend.protocol.cache.lease import (
    LeaseRequest,
    LeaseWait,
    begin_lease,
    delete_endless,
    give_up,
    request_leases,
    serves_reads,
    sort_answers,
)
from cachebackend.protocol.cache.near_reads import NearReads
from cachebackend.protocol.cache.tags import TokenRead, read_tokens
from cachebackend.protocol.cache.tokens import Tokens
from cachebackend.protocol.cache.warm import warm
from cachebackend.protocol.context import Context
from cachebackend.protocol.ring.deletes import delete

__all__ = [
    "GRANTED",
    "ManyLoader",
    "get_or_load",
    "get_or_load_many",
    "load_again",
    "settle_load",
]

K = TypeVar("K")
#: Takes the caller's names of the keys to load, and returns the values of the keys that have one.
ManyLoader: TypeAlias = Callable[[list[K]], Any]
#: Returned by ``settle_load`` instead of a value: the key held nothing, and the lease is ours.
GRANTED: Any = object()


def settle_load(
    context: Context,
    lease: LeaseRequest,
    reply: Reply,
    loader: Loader,
    fill_options: FillOptions,
    *,
    tokens: Tokens | None = None,
    near: NearReads[bytes] | None = None,
) -> Any:
    """Return the value in the reply to ``begin_lease``, GRANTED, or ``Continue``; count a hit or a miss.

    Args:
        context: The alias.
        lease: The lease that was asked for.
        reply: The reply.
        loader: Called without arguments if the operation continues, after the lease is held.
        fill_options: How the loaded value is stored.
        tokens: The tokens of the tags in ``fill_options``, read with the lease; None: it names no tags.
        near: The read of the key by the near cache, if there is one; it ends before a load.
    """
    if reply is None and context.ring_change is None:  # most misses
        cell = context.counters.cell
        cell.misses += 1
        cell.leases_granted += 1
        return GRANTED
    value = fresh_value(context, reply, tokens if fill_options.token_names else None)
    if value is not NOT_PLAIN:
        return value
    tokens = Tokens() if tokens is None else tokens
    return Continue(_load_after(context, lease, reply, loader, fill_options, tokens=tokens, near=near))


def _load_after(
    context: Context,
    lease: LeaseRequest,
    reply: Reply,
    loader: Loader,
    fill_options: FillOptions,
    *,
    tokens: Tokens,
    near: NearReads[bytes] | None,
) -> Operation[Any]:
    """Return the value of a key whose record needs a second look: refresh, tags, a lease, an error."""
    record = reply
    if isinstance(reply, RingCacheError) and serves_reads(reply):
        [record] = yield Send([(lease.node, (b"GET", lease.key))])
    tokens = yield from read_tokens(context, tokens, [record])
    cached = _read(context, lease.key, record, tokens, allow_stale=_allows_stale(fill_options))
    if cached is not None and not cached.due:
        if near is not None:
            near.keep(lease.key, record, cached.value)
        return cached.value
    if near is not None:
        near.end()
    if cached is not None:
        lease.claim(context, record, cached)
    asked = None if cached is not None else ([reply], tokens)
    values = yield from _lease_and_load(
        context, {lease.key: lease}, lambda _: loader, _one_value, fill_options, asked=asked
    )
    return values[lease.key]


def get_or_load(context: Context, key: bytes, loader: Loader, fill_options: FillOptions) -> Operation[Any]:
    """Return the value of a key; load and fill it if there is none, or it is due for a refresh.

    Args:
        context: The alias.
        key: The key.
        loader: Called without arguments, after the lease is held and never before.
        fill_options: How the loaded value is stored.
    """
    near = NearReads(context, {key: key}, is_used=not fill_options.token_names)
    if near.hits:
        return near.hits[key]
    tokens, read = (
        Tokens(fill_options.token_names),
        TokenRead(context, fill_options.tags, fill_options.shapes),
    )
    try:
        lease, request = begin_lease(context, key)
        begun = context.counters.begin_get()
        try:
            reply, *replies = yield Send([request, *read.requests, *near.begin()])
        except BaseException:  # cancelled: the request may have been sent
            give_up(context, [lease])
            raise
        if begun is not None:
            context.end_get(begun, key, reply)
        read.settle(tokens, replies[: len(read.requests)])
        near.settle(replies[len(read.requests) :])
        value = settle_load(context, lease, reply, loader, fill_options, tokens=tokens, near=near)
        if value.__class__ is Continue:
            return (yield from value.operation)
        if value is not GRANTED:
            near.keep(key, reply, value)
            return value
    finally:
        near.end()
    call = LoaderCall({key: lease}, loader, lambda loaded: {key: loaded})
    return (yield from load_and_fill(context, call, fill_options, tokens))[key]


def get_or_load_many(
    context: Context, keys: Mapping[K, bytes], loader: ManyLoader[K], fill_options: FillOptions
) -> Operation[dict[K, Any]]:
    """Return the values of many keys; load and fill the keys that have none, or are due, in one call.

    One scatter reads, one acquires the leases, one fills. Keys whose lease another process holds
    are waited for, and loaded in a later call if the lease expires.

    Args:
        context: The alias.
        keys: The caller's name for each key, and the key.
        loader: Called with the names to load, after their leases are held; returns a dict of the
            values that exist.
        fill_options: How the loaded values are stored.
    """
    near = NearReads(context, keys, is_used=not fill_options.token_names)
    values: dict[K, Any] = near.hits
    leases: dict[K, LeaseRequest] = {}
    try:
        records, tokens = yield from records_of(context, near, fill_options.tags, fill_options.shapes)
        allow_stale, wanted = _allows_stale(fill_options), tokens if fill_options.token_names else None
        for name, key in near.misses.items():
            record = records[name]
            value = fresh_value(context, record, wanted)
            if value is not NOT_PLAIN:
                values[name] = value
                near.keep(name, record, value)
                continue
            cached = _read(context, key, record, tokens, allow_stale=allow_stale)
            if cached is not None and not cached.due:
                values[name] = cached.value
                near.keep(name, record, cached.value)
                continue
            leases[name] = lease = LeaseRequest(context.serving_node(key), key, context.clock.token())
            if cached is not None:
                lease.claim(context, record, cached)
    finally:
        near.end()
    if leases:
        values.update(
            (
                yield from _lease_and_load(
                    context, leases, lambda names: lambda: loader(names), _values_by_name, fill_options
                )
            )
        )
    return {name: values[name] for name in keys if values.get(name, MISSING) is not MISSING}


def load_again(context: Context, key: bytes, loader: Loader, fill_options: FillOptions) -> Operation[Any]:
    """Load a key and fill it, even if it holds a value; return what was loaded.

    The value is deleted first, so that a load that began before this one cannot fill after it.
    """
    yield from delete(context, key)
    lease = LeaseRequest(context.serving_node(key), key, context.clock.token())
    values = yield from _lease_and_load(context, {key: lease}, lambda _: loader, _one_value, fill_options)
    return values[key]


def _one_value(loaded: Any, names: Sequence[K]) -> dict[K, Any]:
    return dict.fromkeys(names, loaded)


def _values_by_name(loaded: Mapping[K, Any], names: Sequence[K]) -> dict[K, Any]:
    return {name: loaded.get(name, MISSING) for name in names}


def _read(
    context: Context, key: bytes, reply: Reply, tokens: Tokens, *, allow_stale: bool
) -> CachedValue | None:
    """Return the value in a reply, if it may be served; count a hit or a miss."""
    cached = read_record(context, key, reply, tokens, allow_stale=allow_stale)
    cell = context.counters.cell
    if cached is None:
        cell.misses += 1
    else:
        cell.hits += 1
        cell.stale_hits += cached.stale
    return cached


def _allows_stale(fill_options: FillOptions) -> bool:
    """Return whether a stale value may be served; not to a loader, whose own value would keep it."""
    return fill_options.stale_ms > 0 and not in_loader()


def _lease_and_load(
    context: Context,
    leases: dict[K, LeaseRequest],
    loader_of: Callable[[list[K]], Loader],
    values_of: Callable[..., dict[K, Any]],
    fill_options: FillOptions,
    *,
    asked: tuple[list[Reply], Tokens] | None = None,
) -> Operation[dict[K, Any]]:
    """Lease, load and fill keys; wait for the keys that other processes load.

    Args:
        context: The alias.
        leases: The requests for the leases.
        loader_of: Returns the loader of some of the names.
        values_of: Returns the values of some ``names`` in the result of that loader.
        fill_options: How the loaded values are stored.
        asked: The replies to the requests, and the tokens of the tags, if they were read already.
    """
    values: dict[K, Any] = {}
    wait = LeaseWait(context)
    try:
        while leases:
            replies, tokens = asked or (
                yield from request_leases(context, leases.values(), fill_options.tags, fill_options.shapes)
            )
            asked = None
            answers = sort_answers(context, leases, replies, tokens, allow_stale=_allows_stale(fill_options))
            values.update({name: cached.value for name, cached in answers.cached.items()})
            if (
                context.ring_change is not None and not fill_options.token_names
            ):  # it warms no value with tags
                for name, record in (yield from warm(context, answers.granted)).items():
                    values[name] = context.codec.decode(record, leases[name].key)
                    del answers.granted[name]
            names = [*answers.granted, *answers.unleased]
            if names:
                wait.end()
                call = LoaderCall(answers.granted, loader_of(names), partial(values_of, names=names))
                values.update((yield from load_and_fill(context, call, fill_options, tokens)))
                yield from delete_endless(context, leases.values(), replies)
            leases = answers.retry
            if answers.must_wait:
                may_store = fill_options.may_fill is None or (yield fill_options.may_fill)
                if not may_store or not (yield from wait.is_allowed(leases.values())):
                    call = LoaderCall({}, loader_of([*leases]), partial(values_of, names=[*leases]))
                    values.update((yield from load_and_fill(context, call, fill_options, tokens)))
                    break
                yield wait.pause()
    finally:
        wait.end()
    return values
