"""Reads that never fill: get, get_many, has_key, ttl; and what a record means to a reader.

A hit is one GET. A value that was loaded under tags is vouched for by their tokens,
which take a second one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple, TypeVar

from cachebackend.codec import HEADER_BYTES, Kind, Refresh, Stored, has_tags, is_plain, kind_of, stored_of
from cachebackend.effects import Command, Operation, Reply, Script, Send
from cachebackend.errors import NodeReplyError, RecordError
from cachebackend.protocol.cache.near_reads import Copies
from cachebackend.protocol.context import Context

__all__ = [
    "NOT_PLAIN",
    "Found",
    "can_warm",
    "fresh_seconds",
    "get",
    "get_many",
    "has_key",
    "has_tag_tokens",
    "is_wrong_type",
    "look",
    "plain_value",
    "records_of",
    "tags_of_replies",
    "token_requests",
    "tokens_of",
    "ttl",
    "value_of",
]

_TTL = Script(__package__, "ttl", "readable_value")
_MISS = object()
#: In the place of a value: the record says more than its value, or is none.
NOT_PLAIN: Any = object()
#: The first bytes of records that hold no value and are no error.
_NO_VALUES = frozenset({Kind.LEASE, Kind.QUARANTINE, Kind.TAG})
K = TypeVar("K")
Tokens = Mapping[bytes, bytes | None]


class Found(NamedTuple):
    """A value that may be served.

    Attributes:
        value: The value.
        due: Whether it should be loaded again, and nobody has claimed that.
        stale: Whether it is past its time, or was invalidated.
    """

    value: Any
    due: bool
    stale: bool


def look(context: Context, reply: Reply, tokens: Tokens, *, allow_stale: bool) -> Found | None:
    """Return what a reply to GET holds for a reader; None for a miss.

    A lease, a quarantine, a record that cannot be read, a key of another type and a value
    whose tags have other tokens by now are misses.

    Args:
        context: The alias.
        reply: What stands, or the failure to tell.
        tokens: The present tokens of the value's tags, None for a tag that is gone.
        allow_stale: Whether a value past its time will do.

    Raises:
        NodeUnavailableError: The node did not answer and ``on_node_failure`` is "raise".
    """
    if reply.__class__ is not bytes:
        if is_wrong_type(reply):
            context.undecodable(RecordError(str(reply)))
        else:
            context.reply_or(reply, None)
        return None
    try:
        kind = kind_of(reply)
        if kind in _NO_VALUES:
            return None
        if kind is Kind.INTEGER:
            return Found(context.codec.decode(reply), due=False, stale=False)
        stored = stored_of(reply)
        if stored.refresh is None and not stored.tags and kind is Kind.VALUE:
            return Found(context.codec.decode_stored(stored), due=False, stale=False)
        return _judge(context, kind, stored, tokens, allow_stale)
    except RecordError as error:
        context.undecodable(error)
        return None


def is_wrong_type(reply: Reply) -> bool:
    """Return whether a key turned out to hold no string: foreign, and a miss."""
    return isinstance(reply, NodeReplyError) and reply.code == "WRONGTYPE"


def _judge(context: Context, kind: Kind, stored: Stored, tokens: Tokens, allow_stale: bool) -> Found | None:
    if any(tokens.get(tag) != token for tag, token in stored.tags.items()):
        return None
    refresh, now = stored.refresh, context.clock.now()
    if refresh is None:  # a stale value bears one, or nobody could claim it
        return (
            Found(context.codec.decode_stored(stored), due=False, stale=False) if kind is Kind.VALUE else None
        )
    stale = kind is Kind.STALE or now >= refresh.fresh_until
    if stale and not allow_stale:
        return None
    due = now >= refresh.deadline and (stale or _is_due_early(context, refresh, now))
    return Found(context.codec.decode_stored(stored), due, stale)


def _is_due_early(context: Context, refresh: Refresh, now: float) -> bool:
    """Return whether this reader should load the value again before its time.

    The longer a load takes, the earlier; each reader draws for itself, so that one of
    many comes first and alone.

    Source: Vattani et al., "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015,
    figure 3 (XFetch).
    """
    beta = context.options.early_refresh_beta
    return (
        beta > 0
        and now - refresh.delta * beta * math.log(1.0 - context.clock.random()) >= refresh.fresh_until
    )


def plain_value(context: Context, reply: Reply) -> Any:
    """Return the value of a reply to GET that holds nothing else, counting a hit; or NOT_PLAIN."""
    if reply.__class__ is bytes:
        loads = context.codec.plain.get(reply[:HEADER_BYTES])
        if loads is not None:
            try:
                value = loads(reply[HEADER_BYTES:])
            except Exception:  # noqa: BLE001  # foreign bytes: unpickling may raise anything at all
                return NOT_PLAIN
            context.counters.cell.hits += 1
            return value
    return NOT_PLAIN


def value_of(context: Context, reply: Reply, missing: Any, tokens: Tokens | None = None) -> Any:
    """Return the value that a reply to GET holds, counting a hit or a miss."""
    cell = context.counters.cell
    found = look(context, reply, tokens or {}, allow_stale=False)
    if found is None:
        cell.misses += 1
        return missing
    cell.hits += 1
    return found.value


def has_tag_tokens(reply: Reply) -> bool:
    """Return whether a reply to GET is a value that its tags must vouch for."""
    return reply.__class__ is bytes and has_tags(reply)


def tags_of_replies(replies: Iterable[Reply]) -> list[bytes]:
    """Return the keys of the tags that must vouch for the values in some replies."""
    tags: dict[bytes, None] = {}
    for reply in replies:
        if has_tag_tokens(reply):
            try:
                tags.update(dict.fromkeys(stored_of(reply).tags))
            except RecordError:
                continue  # a miss, as whoever looks at it will find
    return list(tags)


def token_requests(context: Context, tags: Sequence[bytes]) -> list[tuple[int, Command]]:
    """Return the requests for the present tokens of tags."""
    return [(context.serving_node(tag), (b"GET", tag)) for tag in tags]


def tokens_of(tags: Sequence[bytes], replies: Sequence[Reply]) -> dict[bytes, bytes | None]:
    """Return the token in the record of each tag; None for one that is gone or cannot be had."""
    return {
        tag: reply[1:] if isinstance(reply, bytes) and reply[:1] == b"T" else None
        for tag, reply in zip(tags, replies, strict=True)
    }


def get(context: Context, key: bytes, missing: Any = None) -> Operation[Any]:
    """Return the value of a key, or ``missing``."""
    copies = Copies(context, {key: key})
    if copies.found:
        return copies.found[key]
    try:
        begun = context.counters.begin_get()
        reply, *ttl_ms = yield Send([(context.serving_node(key), (b"GET", key)), *copies.begin()])
        context.counters.end_get(begun)
        copies.answered(ttl_ms)
        value = plain_value(context, reply)
        if value is NOT_PLAIN:
            if reply is None:
                reply = (yield from _old_records(context, [key])).get(key)
            tokens = yield from _read_tokens(context, [reply])
            value = value_of(context, reply, _MISS, tokens)
        if value is _MISS:
            return missing
        copies.keep(key, reply, value, fresh_seconds(context, reply))
        return value
    finally:
        copies.end()


def _read_tokens(context: Context, replies: Sequence[Reply]) -> Operation[Tokens]:
    """Return the present tokens of the tags of the values in some replies."""
    tags = tags_of_replies(replies)
    if not tags:
        return {}
    return tokens_of(tags, (yield Send(token_requests(context, tags))))


def get_many(context: Context, keys: Mapping[K, bytes]) -> Operation[dict[K, Any]]:
    """Return the values of those keys that have one, under the caller's own names.

    Args:
        context: The alias.
        keys: The caller's name for each key, and the key.
    """
    if context.near is not None:
        return (yield from _get_many_by_copies(context, keys))
    groups = context.by_serving_node(zip(keys.values(), keys, strict=True))
    replies = yield Send(_mgets(keys, groups))
    found: dict[K, Any] = dict.fromkeys(keys)  # in the caller's order
    others: dict[K, Reply] = {}
    loaders = context.codec.plain
    for names, reply in zip(groups.values(), replies, strict=True):
        records = context.reply_or(reply, [None] * len(names))
        values = _plain_values(context, records)
        if values is not None:
            found.update(zip(names, values, strict=True))
            continue
        for name, record in zip(names, records, strict=True):
            loads = None if record is None else loaders.get(record[:HEADER_BYTES])
            if loads is None:
                others[name] = record
                continue
            try:
                found[name] = loads(record[HEADER_BYTES:])
            except Exception:  # noqa: BLE001  # foreign bytes: unpickling may raise anything at all
                others[name] = record
    context.counters.cell.hits += len(found) - len(others)
    if others:
        rest = yield from _others(context, keys, others)
        for name in others.keys() - rest.keys():
            del found[name]
        found.update(rest)
    return found


def _plain_values(context: Context, records: Sequence[Reply]) -> list[Any] | None:
    """Return the values of records of one codec that hold nothing else; None if not all are such.

    Most are, and many-key reads have time for little more.
    """
    try:
        header = records[0][:HEADER_BYTES]
        payloads = [record.removeprefix(header) for record in records]
        if any(map(is_, payloads, records)):
            return None
        loads = context.codec.plain[header]
        return [loads(payload) for payload in payloads]  # a map would take StopIteration for its own end
    except Exception:  # noqa: BLE001  # no such header, or foreign bytes: unpickling may raise anything at all
        return None


def _get_many_by_copies(context: Context, keys: Mapping[K, bytes]) -> Operation[dict[K, Any]]:
    """Return the values of those keys that have one: copies as far as there are any, and keep more."""
    copies = Copies(context, keys)
    found = copies.found
    try:
        records, tokens = yield from records_of(context, copies)
        old = yield from _old_records(context, [keys[n] for n, record in records.items() if record is None])
        for name, record in records.items():
            value = plain_value(context, record)
            if value is NOT_PLAIN:
                value = value_of(context, old.get(keys[name]) if record is None else record, _MISS, tokens)
            if value is not _MISS:
                found[name] = value
                copies.keep(name, record, value, fresh_seconds(context, record))
    finally:
        copies.end()
    return {name: found[name] for name in keys if name in found}


def _others(context: Context, keys: Mapping[K, bytes], records: dict[K, Reply]) -> Operation[dict[K, Any]]:
    """Return the values of keys whose records are not plain, or that have none, as far as there are any."""
    missing = {name: keys[name] for name, record in records.items() if record is None}
    old = yield from _old_records(context, list(missing.values()))
    records.update({name: old.get(key) for name, key in missing.items()})
    tokens = yield from _read_tokens(context, list(records.values()))
    found = ((name, value_of(context, record, _MISS, tokens)) for name, record in records.items())
    return {name: value for name, value in found if value is not _MISS}


def _mgets(keys: Mapping[K, bytes], groups: Mapping[int, Sequence[K]]) -> list[tuple[int, Command]]:
    return [(node, (b"MGET", *map(keys.__getitem__, names))) for node, names in groups.items()]


def records_of(context: Context, copies: Copies[K]) -> Operation[tuple[dict[K, Reply], Tokens]]:
    """Return what stands at each key without a copy, and the tokens of the tags that vouch for it.

    One MGET a node; ``copies`` is told of the reads.
    """
    keys = copies.left
    groups = context.by_serving_node(zip(keys.values(), keys, strict=True))
    mgets = _mgets(keys, groups)
    replies = yield Send([*mgets, *copies.begin()])
    copies.answered(replies[len(mgets) :])
    records: dict[K, Reply] = dict.fromkeys(keys)
    for names, reply in zip(groups.values(), replies[: len(mgets)], strict=True):
        records.update(zip(names, context.reply_or(reply, [None] * len(names)), strict=True))
    tokens = yield from _read_tokens(context, list(records.values()))
    return records, tokens


def _old_records(context: Context, keys: Sequence[bytes]) -> Operation[dict[bytes, bytes]]:
    """Return what stands of keys at the ring that was left, for a reader that fills nothing."""
    other = context.ring_change
    if other is None or not other.is_warm:
        return {}
    asked = [(other.owner(key), key) for key in keys if other.owner(key) != context.ring.owner(key)]
    replies = (yield Send([(node, (b"GET", key)) for node, key in asked])) if asked else []
    return {key: record for (_, key), record in zip(asked, replies, strict=True) if can_warm(context, record)}


def can_warm(context: Context, record: Reply) -> bool:
    """Return whether a record of the ring that was left is a value that is good as it is."""
    if not isinstance(record, bytes) or has_tags(record):
        return False
    try:
        if kind_of(record) not in {Kind.VALUE, Kind.INTEGER}:
            return False
    except RecordError:
        return False
    found = look(context, record, {}, allow_stale=False)
    return found is not None and not found.due


def fresh_seconds(context: Context, record: Reply) -> float:
    """Return for how many seconds a record is good to every reader, as far as it says; 0: it is not."""
    if not isinstance(record, bytes) or has_tags(record):
        return 0.0
    try:
        kind = kind_of(record)
        if kind is Kind.INTEGER or is_plain(record):
            return math.inf
        refresh = stored_of(record).refresh if kind is Kind.VALUE else None
    except RecordError:
        return 0.0
    return 0.0 if refresh is None else refresh.fresh_until - context.clock.now()


def has_key(context: Context, key: bytes) -> Operation[bool]:
    """Return whether a key has a value."""
    milliseconds = yield from ttl(context, key)
    return milliseconds != -2


def ttl(context: Context, key: bytes) -> Operation[int]:
    """Return for how many milliseconds a key has a value yet; -1: for ever; -2: it has none."""
    [reply] = yield Send([(context.ring.owner(key), _TTL.call([key], context.clock.now()))])
    milliseconds: int = context.reply_or(reply, -2)
    return milliseconds
