"""Reads that never fill: get, get_many, has_key, ttl.

A hit is one GET. A value that was loaded under tags needs their tokens, which take a second one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from operator import is_
from typing import Any, TypeVar

from cachebackend.codec import HEADER_BYTES, tag_block_of
from cachebackend.effects import Continue, Operation, Reply, Request, Script, Send
from cachebackend.errors import NodeUnavailableError
from cachebackend.interrupts import raise_interrupt
from cachebackend.protocol.cache.freshness import (
    MISS,
    NOT_PLAIN,
    can_warm,
    fresh_value,
    plain_value,
    value_of,
)
from cachebackend.protocol.cache.near_reads import NearReads
from cachebackend.protocol.cache.shapes import ShapeEntry
from cachebackend.protocol.cache.tags import (
    TokenRead,
    has_tag_tokens,
    read_tokens,
    remember_tags,
    with_checked_tags,
)
from cachebackend.protocol.cache.tokens import Tokens
from cachebackend.protocol.context import Context
from cachebackend.replies import either, integer, text

__all__ = [
    "begin_get",
    "get",
    "get_many",
    "has_key",
    "records_of",
    "settle_get",
    "ttl",
]

_TTL = Script(__package__, "ttl", "readable_value", reply=either(integer, text))
K = TypeVar("K")


def begin_get(context: Context, key: bytes) -> Request:
    """Return the request that reads a key."""
    node = context.ring.owner(key) if context.gutter is None else context.serving_node(key)
    return node, (b"GET", key)


def settle_get(
    context: Context,
    key: bytes,
    request: Request,
    reply: Reply,
    missing: Any,
    *,
    tokens: Tokens | None = None,
) -> Any:
    """Return the value in a reply, counting a hit; ``missing``, counting a miss; or ``Continue``.

    Args:
        context: The alias.
        key: The key.
        request: The request.
        reply: Its reply.
        missing: Returned if there is no value.
        tokens: The tokens of some tags, if they were read with the value.
    """
    value = plain_value(context, reply)
    if value is not NOT_PLAIN:
        return value
    if reply is None and context.ring_change is not None:
        return Continue(_get_in_old_ring(context, key, missing))
    if has_tag_tokens(reply):
        return Continue(_get_tagged(context, key, reply, missing, tokens or Tokens()))
    if context.gutter is not None and _has_just_been_ejected(context, key, request, reply):
        return Continue(_get_in_gutter(context, key, missing))
    return value_of(context, key, reply, missing)


def _has_just_been_ejected(context: Context, key: bytes, request: Request, reply: Reply) -> bool:
    """Return whether this very request ejected the owner, so that the gutter serves the key now."""
    return reply.__class__ is NodeUnavailableError and context.serving_node(key) != request[0]


def _get_in_old_ring(context: Context, key: bytes, missing: Any) -> Operation[Any]:
    reply = (yield from _old_ring_records(context, [key])).get(key)
    return value_of(context, key, reply, missing)


def _get_tagged(context: Context, key: bytes, reply: Reply, missing: Any, tokens: Tokens) -> Operation[Any]:
    block = tag_block_of(reply)
    if unread := tokens.unread((block,)):
        read = TokenRead(context, unread)
        read.settle(tokens, (yield Send(read.requests)))
    remember_tags(context, key, tokens.tags_of(block))
    return value_of(context, key, reply, missing, tokens)


def _get_in_gutter(context: Context, key: bytes, missing: Any) -> Operation[Any]:
    request = begin_get(context, key)
    [reply] = yield Send([request])
    value = settle_get(context, key, request, reply, missing)
    return (yield from value.operation) if value.__class__ is Continue else value


def get(context: Context, key: bytes, missing: Any = None) -> Operation[Any]:
    """Return the value of a key, or ``missing``.

    If this process knows which tags the value had, it reads their tokens with the value. The tokens
    of tags that the value has got since are read after it.
    """
    near = NearReads(context, {key: key})
    if near.hits:
        return near.hits[key]
    known = context.known_tags.get(key, ())
    tokens, read = Tokens(), TokenRead(context, known)
    try:
        request = begin_get(context, key)
        begun = context.counters.begin_get()
        reply, *replies = yield Send([request, *read.requests, *near.begin()])
        if begun is not None:
            context.end_get(begun, key, reply)
        read.settle(tokens, replies[: len(read.requests)])
        near.settle(replies[len(read.requests) :])
        if known and not has_tag_tokens(reply):
            remember_tags(context, key, ())
        value = fresh_value(context, reply, tokens) if known else NOT_PLAIN
        if value is NOT_PLAIN:
            value = settle_get(context, key, request, reply, MISS, tokens=tokens)
        if value.__class__ is Continue:
            value = yield from value.operation
        if value is MISS:
            return missing
        near.keep(key, reply, value)
        return value
    finally:
        near.end()


def get_many(context: Context, keys: Mapping[K, bytes]) -> Operation[dict[K, Any]]:
    """Return the values of the keys that have one, under the caller's own names.

    Args:
        context: The alias.
        keys: The caller's name for each key, and the key.
    """
    if context.near is not None:
        return (yield from _get_many_near(context, keys))
    groups = context.by_serving_node(zip(keys.values(), keys, strict=True))
    replies = yield Send(_mget_requests(keys, groups))
    values: dict[K, Any] = dict.fromkeys(keys)  # in the caller's order
    others: dict[K, Reply] = {}
    loaders = context.codec.plain
    for names, reply in zip(groups.values(), replies, strict=True):
        records = context.reply_or(reply, [None] * len(names))
        plain = _plain_values(context, records)
        if plain is not None:
            values.update(zip(names, plain, strict=True))
            continue
        for name, record in zip(names, records, strict=True):
            loads = None if record is None else loaders.get(record[:HEADER_BYTES])
            if loads is None:
                others[name] = record
                continue
            try:
                values[name] = loads(record[HEADER_BYTES:])
            except Exception as error:  # noqa: BLE001  # foreign bytes: unpickling may raise any exception
                raise_interrupt(error)
                others[name] = record
    context.counters.cell.hits += len(values) - len(others)
    if others:
        rest = yield from _read_others(context, keys, others)
        for name in others.keys() - rest.keys():
            del values[name]
        values.update(rest)
    return values


def _plain_values(context: Context, records: Sequence[Reply]) -> list[Any] | None:
    """Return the values of records of one codec that hold nothing else; None if any is different.

    Most records are like that, and reads of many keys have no time for more per key.
    """
    try:
        header = records[0][:HEADER_BYTES]
        payloads = [record.removeprefix(header) for record in records]
        if any(map(is_, payloads, records)):
            return None
        loads = context.codec.plain[header]
        return [loads(payload) for payload in payloads]  # map() would treat StopIteration as its own end
    except Exception as error:  # noqa: BLE001  # no such header, or foreign bytes: unpickling may raise any exception
        raise_interrupt(error)
        return None


def _get_many_near(context: Context, keys: Mapping[K, bytes]) -> Operation[dict[K, Any]]:
    """Return the values of the keys that have one, from copies where there are any; store new copies."""
    near = NearReads(context, keys)
    values = near.hits
    try:
        records, tokens = yield from records_of(context, near)
        missing = [keys[name] for name, record in records.items() if record is None]
        old = yield from _old_ring_records(context, missing)
        for name, record in records.items():
            key = keys[name]
            value = value_of(context, key, old.get(key) if record is None else record, MISS, tokens)
            if value is not MISS:
                values[name] = value
                near.keep(name, record, value)
    finally:
        near.end()
    return {name: values[name] for name in keys if name in values}


def _read_others(
    context: Context, keys: Mapping[K, bytes], records: dict[K, Reply]
) -> Operation[dict[K, Any]]:
    """Return the values of keys whose records are not plain, or that have none."""
    missing = {name: keys[name] for name, record in records.items() if record is None}
    old = yield from _old_ring_records(context, list(missing.values()))
    records.update({name: old.get(key) for name, key in missing.items()})
    tokens = yield from read_tokens(context, Tokens(), records.values())
    values = ((name, value_of(context, keys[name], record, MISS, tokens)) for name, record in records.items())
    return {name: value for name, value in values if value is not MISS}


def _mget_requests(keys: Mapping[K, bytes], groups: Mapping[int, Sequence[K]]) -> list[Request]:
    return [(node, (b"MGET", *map(keys.__getitem__, names))) for node, names in groups.items()]


def records_of(
    context: Context, near: NearReads[K], tags: Sequence[bytes] = (), shapes: Sequence[ShapeEntry] = ()
) -> Operation[tuple[dict[K, Reply], Tokens]]:
    """Return the record of each key without a copy, and the tokens that their tags have now.

    The tokens of the tags and shapes that the reader asks for are read in the same scatter, those of
    other tags in a second one. ``near`` is given the replies that it asked for.
    """
    keys, tokens = near.misses, Tokens((*tags, *(entry.name for entry in shapes)))
    groups = context.by_serving_node(zip(keys.values(), keys, strict=True))
    mgets, read = _mget_requests(keys, groups), TokenRead(context, tags, shapes)
    replies = iter((yield Send([*mgets, *read.requests, *near.begin()])))
    records: dict[K, Reply] = dict.fromkeys(keys)
    for names, reply in zip(groups.values(), list(islice(replies, len(mgets))), strict=True):
        records.update(zip(names, context.reply_or(reply, [None] * len(names)), strict=True))
    read.settle(tokens, list(islice(replies, len(read.requests))))
    near.settle(list(replies))
    return records, (yield from read_tokens(context, tokens, records.values()))


def _old_ring_records(context: Context, keys: Sequence[bytes]) -> Operation[dict[bytes, bytes]]:
    """Return the records of keys in the old ring, for a reader that fills nothing."""
    other = context.ring_change
    if other is None or not other.is_warm:
        return {}
    asked = [(other.owner(key), key) for key in keys if other.owner(key) != context.ring.owner(key)]
    replies = (yield Send([(node, (b"GET", key)) for node, key in asked])) if asked else []
    return {
        key: record for (_, key), record in zip(asked, replies, strict=True) if can_warm(context, key, record)
    }


def has_key(context: Context, key: bytes) -> Operation[bool]:
    """Return whether a key has a value."""
    milliseconds = yield from ttl(context, key)
    return milliseconds != -2


def ttl(context: Context, key: bytes) -> Operation[int]:
    """Return how many milliseconds the value of a key has left; -1: it does not expire; -2: no value."""
    now, node = str(context.clock.now()), context.ring.owner(key)

    def attempt(verdict: bytes) -> Operation[Reply]:
        [reply] = yield Send([(node, _TTL.call([key], now, verdict))])
        return reply

    milliseconds: int = context.reply_or((yield from with_checked_tags(context, node, attempt)), -2)
    return milliseconds
