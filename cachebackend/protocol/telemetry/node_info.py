"""What nodes report about themselves (INFO), and what one key holds."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cachebackend.codec import Kind, Refresh, kind_of, stored_of
from cachebackend.effects import Command, Operation, Reply, Request, Send
from cachebackend.errors import NodeReplyError, RecordError, RingCacheError
from cachebackend.protocol.context import Context
from cachebackend.protocol.queue.partition import QueueContext

__all__ = [
    "Inspected",
    "command_infos",
    "inspect",
    "inspect_shard",
    "memory_usage",
    "node_infos",
    "node_times",
    "number_of",
    "seconds_of",
    "stored_tokens",
]

#: An integer that a node may report: of at most 64 bits.
_NUMBER = re.compile(r"-?[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a key holds.

    Attributes:
        node: The index of the key's owner.
        kind: ``value``, ``stale``, ``lease``, ``quarantine``, ``integer``, ``tag``, ``shapes``,
            ``nothing``, or ``unreadable``.
        ttl: Seconds until it expires; None if it never expires or does not exist.
        size: Bytes of the record.
        codec: The number of the codec that encoded its payload; None if it has none.
        refresh: When the value should be loaded again, and how long the last load took.
        tags: The tags and shapes that the value depends on, with the tokens that it records.
        token: The token of the lease, the quarantine or the tag, in hexadecimal; None if it is none of them.
        record: The record itself.
        shapes: The entries of a shard of the registry of shapes, by the ids of the shapes.
    """

    node: int
    kind: str
    ttl: float | None = None
    size: int = 0
    codec: int | None = None
    refresh: Refresh | None = None
    tags: Mapping[bytes, bytes] = field(default_factory=dict)
    token: str | None = None
    record: bytes = b""
    shapes: Mapping[bytes, bytes] = field(default_factory=dict)


def node_infos(
    context: Context | QueueContext, nodes: Sequence[int] | None = None
) -> Operation[list[dict[str, str] | RingCacheError]]:
    """Return the INFO of each node of the ring, or of the given nodes; an error for a node that failed."""
    return (yield from _infos(context.ring.nodes if nodes is None else nodes, (b"INFO",)))


def command_infos(
    context: Context | QueueContext, nodes: Sequence[int]
) -> Operation[list[dict[str, str] | RingCacheError]]:
    """Return how often each node ran each command, and how long these took; an error for one that failed."""
    return (yield from _infos(nodes, (b"INFO", b"commandstats", b"latencystats")))


def _infos(nodes: Iterable[int], command: Command) -> Operation[list[dict[str, str] | RingCacheError]]:
    replies = yield Send([(node, command) for node in nodes])
    return [reply if isinstance(reply, RingCacheError) else _info(reply) for reply in replies]


def node_times(
    context: Context | QueueContext, nodes: Sequence[int]
) -> Operation[dict[int, float | RingCacheError]]:
    """Return the time of each node's clock in seconds since 1970, or its error."""
    replies = yield Send([(node, (b"TIME",)) for node in nodes])
    return {node: seconds_of(reply) for node, reply in zip(nodes, replies, strict=True)}


def seconds_of(time: Reply) -> float | RingCacheError:
    """Return the reply to TIME in seconds since 1970, or the error; 0.0 if it is not a time."""
    if isinstance(time, RingCacheError):
        return time
    texts = [text for text in time if text.isdigit() and len(text) < 19]
    return int(texts[0]) + int(texts[1]) / 1e6 if len(texts) == 2 else 0.0


def number_of(info: Mapping[str, str], name: str) -> int | None:
    """Return the integer in a field of a node's INFO; None if it is missing or is not an integer."""
    text = info.get(name, "")
    return int(text) if _NUMBER.fullmatch(text) else None


def memory_usage(context: Context, keys: Sequence[bytes]) -> Operation[list[int]]:
    """Return the bytes that each key takes on its owner; keys that are gone or not reported are left out."""
    replies = yield Send([(context.ring.owner(key), (b"MEMORY", b"USAGE", key)) for key in keys])
    return [reply for reply in replies if isinstance(reply, int)]


def _info(text: bytes) -> dict[str, str]:
    lines = [
        line.partition(":") for line in text.decode(errors="replace").splitlines() if not line.startswith("#")
    ]
    return {name: value for name, _, value in lines if name}


def inspect(context: Context, key: bytes) -> Operation[Inspected]:
    """Return what a key holds, without decoding any value.

    Raises:
        NodeUnavailableError: The key's node did not answer.
    """
    node, record, ttl = yield from _read(context, b"GET", key)
    if isinstance(record, NodeReplyError):
        return Inspected(node, "unreadable")
    if record is None:
        return Inspected(node, "nothing")
    try:
        kind = kind_of(record)
        name = kind.name.lower()
        if kind in {Kind.VALUE, Kind.STALE}:
            stored = stored_of(record)
            size, tags = len(record), stored.tags
            return Inspected(node, name, ttl, size, stored.codec, stored.refresh, tags, record=record)
    except RecordError:
        return Inspected(node, "unreadable", ttl, len(record))
    token = record[1:].hex() if kind in {Kind.LEASE, Kind.QUARANTINE, Kind.TAG} else None
    return Inspected(node, name, ttl, len(record), token=token, record=record)


def inspect_shard(context: Context, shard: bytes) -> Operation[Inspected]:
    """Return which shapes a shard of the registry holds.

    Raises:
        NodeUnavailableError: The shard's node did not answer.
    """
    node, entries, ttl = yield from _read(context, b"HGETALL", shard)
    if isinstance(entries, NodeReplyError):
        return Inspected(node, "unreadable")
    if not entries:
        return Inspected(node, "nothing")
    shapes = dict(zip(entries[::2], entries[1::2], strict=True))
    return Inspected(node, "shapes", ttl, sum(map(len, entries)), shapes=shapes)


def _read(context: Context, command: bytes, key: bytes) -> Operation[tuple[int, Any, float | None]]:
    """Return the key's owner, the reply to the command, and in how many seconds the key expires, if it does.

    The reply is a `NodeReplyError` if the key holds another type, so it is not ours.
    """
    node = context.ring.owner(key)
    reply, ttl_ms = yield Send([(node, (command, key)), (node, (b"PTTL", key))])
    if isinstance(reply, NodeReplyError):
        return node, reply, None
    for each in (reply, ttl_ms):
        if isinstance(each, RingCacheError):
            raise each
    return node, reply, ttl_ms / 1000 if ttl_ms >= 0 else None


def stored_tokens(
    context: Context, tags: Collection[bytes], shapes: Collection[tuple[bytes, bytes]]
) -> Operation[tuple[list[bytes | None], list[bytes | None]]]:
    """Return what each tag holds now, and the entry of each shape, by shard and id.

    Returns:
        None for one that is gone, or whose node did not answer.
    """
    requests: list[Request] = [(context.ring.owner(tag), (b"GET", tag)) for tag in tags]
    requests += [(context.ring.owner(shard), (b"HGET", shard, shape)) for shard, shape in shapes]
    replies = yield Send(requests)
    found = [reply if isinstance(reply, bytes) else None for reply in replies]
    return found[: len(tags)], found[len(tags) :]
