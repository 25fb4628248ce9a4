"""What a record means to a reader: a value that may be served, one that is due for a refresh, or a miss.

Only ``V`` records and integers hold a value for a plain reader. A lease, a quarantine, a tag, a
record that cannot be decoded, a key of another type, and a value whose tags have changed are misses.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from cachebackend.codec import (
    HEADER_BYTES,
    LOADED_BYTES,
    Kind,
    Stored,
    has_tags,
    is_plain,
    kind_of,
    stored_of,
    tag_block_span,
    times_of,
)
from cachebackend.effects import Reply
from cachebackend.errors import NodeReplyError, RecordError
from cachebackend.interrupts import raise_interrupt
from cachebackend.protocol.cache.tokens import Tokens
from cachebackend.protocol.context import Context

__all__ = [
    "MISS",
    "NOT_PLAIN",
    "CachedValue",
    "can_warm",
    "fresh_seconds",
    "fresh_value",
    "is_wrong_type",
    "plain_value",
    "read_record",
    "value_of",
]

#: Returned instead of a value: there is none.
MISS: Any = object()
#: Returned instead of a value: the record holds more than its value, or no value.
NOT_PLAIN: Any = object()
#: More than ``-log(1 - random())`` can be: ``random`` returns multiples of 2 to the power of -53, below 1.
_LARGEST_DRAW = 37.0
#: The kinds of records that hold no value and are not an error.
_NO_VALUES = frozenset({Kind.LEASE, Kind.QUARANTINE, Kind.TAG})


class CachedValue(NamedTuple):
    """A value that may be served.

    Attributes:
        value: The value.
        due: Whether it is due for a refresh that nobody has claimed.
        stale: Whether its time is over, or it was invalidated.
    """

    value: Any
    due: bool
    stale: bool


def read_record(
    context: Context,
    key: bytes,
    reply: Reply,
    tokens: Tokens | None = None,
    *,
    allow_stale: bool,
) -> CachedValue | None:
    """Return the value that a reply to GET holds; None for a miss.

    Args:
        context: The alias.
        key: The key.
        reply: The record, or the error.
        tokens: The tokens that the value's tags have now; None: they were not read, so a value with
            tags is a miss.
        allow_stale: Whether a value whose time is over may be served.

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
            if not _is_valid(b"", tokens):
                return None
            return CachedValue(context.codec.decode(reply, key), due=False, stale=False)
        stored = stored_of(reply)
        if not _is_valid(stored.tag_block, tokens):
            return None
        return _read_refreshable(context, key, kind, stored, allow_stale=allow_stale)
    except RecordError as error:
        context.undecodable(error)
        return None


def is_wrong_type(reply: Reply) -> bool:
    """Return whether a key holds another type than a string: not ours, and a miss."""
    return isinstance(reply, NodeReplyError) and reply.code == "WRONGTYPE"


def _is_valid(tag_block: bytes, tokens: Tokens | None) -> bool:
    """Return whether a value's tags have the tokens that its tag block records."""
    return not tag_block if tokens is None else tokens.are_recorded_in(tag_block)


def _read_refreshable(
    context: Context, key: bytes, kind: Kind, stored: Stored, *, allow_stale: bool
) -> CachedValue | None:
    refresh = stored.refresh
    if refresh is None:  # a stale value has one: without it nobody could claim the refresh
        if kind is not Kind.VALUE:
            return None
        return CachedValue(context.codec.decode_stored(stored, key), due=False, stale=False)
    now = context.clock.now()
    stale = kind is Kind.STALE or now >= refresh.fresh_until
    if stale and not allow_stale:
        return None
    due = now >= refresh.deadline and (
        stale or _is_due_early(context, refresh.fresh_until, refresh.delta, now)
    )
    return CachedValue(context.codec.decode_stored(stored, key), due, stale)


def _is_due_early(context: Context, fresh_until: float, delta: float, now: float) -> bool:
    """Return whether this reader should load the value again before its time is over.

    The longer a load takes, the earlier. Each reader draws a separate random number, so one
    of many readers loads first, and alone.

    Source: Vattani et al., "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015,
    figure 3 (XFetch).
    """
    if not _may_be_due_early(context, fresh_until, delta, now):  # most reads
        return False
    scale = delta * context.options.early_refresh_beta
    return scale > 0 and -scale * math.log(1.0 - context.clock.random()) >= fresh_until - now


def _may_be_due_early(context: Context, fresh_until: float, delta: float, now: float) -> bool:
    """Return whether a draw could be large enough that a reader loads the value again."""
    return fresh_until - now <= _LARGEST_DRAW * delta * context.options.early_refresh_beta


def plain_value(context: Context, reply: Reply) -> Any:
    """Return the value of a record that holds nothing else, and count a hit; or NOT_PLAIN."""
    if reply.__class__ is bytes:
        loads = context.codec.plain.get(reply[:HEADER_BYTES])
        if loads is not None:
            try:
                value = loads(reply[HEADER_BYTES:])
            except Exception as error:  # noqa: BLE001  # foreign bytes: unpickling may raise any exception
                raise_interrupt(error)
                return NOT_PLAIN
            context.counters.cell.hits += 1
            return value
    return NOT_PLAIN


def fresh_value(context: Context, reply: Reply, tokens: Tokens | None = None) -> Any:
    """Return a value that every reader may be served now, and count a hit; or NOT_PLAIN.

    A compressed value, one that may be due for a refresh, and one whose tags are not valid need a second
    look. That one draws the random number: two draws would load a value again later than one.

    Args:
        context: The alias.
        reply: The record, or the error.
        tokens: As for ``read_record``.
    """
    if reply.__class__ is not bytes:
        return NOT_PLAIN
    header, begin, tag_block = reply[:HEADER_BYTES], LOADED_BYTES, b""
    loads = context.codec.loaded.get(header)
    if tokens is not None:
        if loads is None and (loads := context.codec.tagged.get(header)) is not None:
            first, begin = tag_block_span(reply)
            tag_block = reply[first:begin]
            if begin > len(reply):
                return NOT_PLAIN
        if not _is_valid(tag_block, tokens):
            return NOT_PLAIN
    if loads is None and not reply.isdigit():
        return plain_value(context, reply)
    try:
        if loads is None:  # the primary key that a lookup of rows holds
            value: Any = int(reply)
        else:
            fresh_until, delta, deadline = times_of(reply)
            now = context.clock.now()
            is_claimed = now < deadline  # another reader loads the value again
            if now >= fresh_until or (not is_claimed and _may_be_due_early(context, fresh_until, delta, now)):
                return NOT_PLAIN
            value = loads(reply[begin:])
    except Exception as error:  # noqa: BLE001  # foreign bytes: unpickling may raise any exception
        raise_interrupt(error)
        return NOT_PLAIN
    context.counters.cell.hits += 1
    return value


def value_of(context: Context, key: bytes, reply: Reply, missing: Any, tokens: Tokens | None = None) -> Any:
    """Return the value that a reply to GET of a key holds, or ``missing``; count a hit or a miss."""
    value = fresh_value(context, reply, tokens)
    if value is not NOT_PLAIN:
        return value
    cell = context.counters.cell
    cached = read_record(context, key, reply, tokens, allow_stale=False)
    if cached is None:
        cell.misses += 1
        return missing
    cell.hits += 1
    return cached.value


def can_warm(context: Context, key: bytes, record: Reply) -> bool:
    """Return whether a record of the old ring is a value that may be copied to the new ring as it is."""
    if not isinstance(record, bytes) or has_tags(record):
        return False
    try:
        if kind_of(record) not in {Kind.VALUE, Kind.INTEGER}:
            return False
    except RecordError:
        return False
    cached = read_record(context, key, record, allow_stale=False)
    return cached is not None and not cached.due


def fresh_seconds(context: Context, record: Reply) -> float:
    """Return for how many seconds a record may be served to every reader, by what it says; 0: it may not."""
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
