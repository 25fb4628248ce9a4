"""Reads that never fill: get, get_many, has_key, ttl. A hit is one GET."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from cachebackend.codec import Kind, decode, kind_of
from cachebackend.effects import Operation, Reply, Script, Send
from cachebackend.errors import NodeReplyError, RecordError
from cachebackend.protocol.context import Context

__all__ = ["get", "get_many", "has_key", "ttl", "value_of"]

_TTL = Script("cachebackend.protocol", "ttl")
_MISS = object()
K = TypeVar("K")


def value_of(context: Context, reply: Reply, missing: Any) -> Any:
    """Return the value that a reply to GET holds, counting a hit or a miss.

    A lease, a quarantine, a record that cannot be read and a key of another type
    (WRONGTYPE) are misses.

    Raises:
        NodeUnavailableError: The node did not answer and ``on_node_failure`` is "raise".
    """
    cell = context.stats.cell
    if reply.__class__ is bytes:
        try:
            value = decode(reply)
        except RecordError as error:
            if not _holds_no_value(reply):
                context.undecodable(error)
        else:
            cell.hits += 1
            return value
    elif isinstance(reply, NodeReplyError) and reply.code == "WRONGTYPE":
        context.undecodable(RecordError(str(reply)))
    else:
        context.settle(reply, None)
    cell.misses += 1
    return missing


def _holds_no_value(record: bytes) -> bool:
    try:
        return kind_of(record) in {Kind.LEASE, Kind.QUARANTINE}
    except RecordError:
        return False


def get(context: Context, key: bytes, missing: Any = None) -> Operation[Any]:
    """Return the value of a key, or ``missing``."""
    [reply] = yield Send([(context.ring.owner(key), (b"GET", key))])
    return value_of(context, reply, missing)


def get_many(context: Context, keys: Mapping[K, bytes]) -> Operation[dict[K, Any]]:
    """Return the values of those keys that have one, under the caller's own names.

    Args:
        context: The alias.
        keys: The caller's name for each key, and the key.
    """
    groups = context.ring.by_owner((key, name) for name, key in keys.items())
    replies = yield Send(
        [(node, (b"MGET", *[keys[name] for name in names])) for node, names in groups.items()]
    )
    found: dict[K, Any] = {}
    for names, reply in zip(groups.values(), replies, strict=True):
        for name, record in zip(names, _each(context, reply, len(names)), strict=True):
            value = value_of(context, record, _MISS)
            if value is not _MISS:
                found[name] = value
    return {name: found[name] for name in keys if name in found}


def _each(context: Context, reply: Reply, count: int) -> Sequence[Reply]:
    records: Sequence[Reply] = context.settle(reply, [None] * count)
    return records


def has_key(context: Context, key: bytes) -> Operation[bool]:
    """Return whether a key has a value."""
    milliseconds = yield from ttl(context, key)
    return milliseconds != -2


def ttl(context: Context, key: bytes) -> Operation[int]:
    """Return for how many milliseconds a key has a value yet; -1: for ever; -2: it has none."""
    [reply] = yield Send([(context.ring.owner(key), _TTL.call([key]))])
    milliseconds: int = context.settle(reply, -2)
    return milliseconds
