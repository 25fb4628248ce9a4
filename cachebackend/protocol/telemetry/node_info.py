"""What is seen of an alias: its nodes' own figures, and what a key holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cachebackend.codec import Kind, Refresh, kind_of, stored_of
from cachebackend.effects import Operation, Send
from cachebackend.errors import NodeReplyError, RecordError, RingCacheError
from cachebackend.protocol.context import Context

__all__ = ["Inspected", "inspect", "memory_of", "node_infos"]


@dataclass(frozen=True, slots=True)
class Inspected:
    """What stands at a key.

    Attributes:
        node: The index of its owner.
        kind: ``value``, ``stale``, ``lease``, ``quarantine``, ``integer``, ``tag``, ``nothing``,
            or ``unreadable``.
        ttl: Seconds that it lives yet; None: for ever, or nothing stands.
        size: Bytes of the record.
        codec: The number of the codec that its payload was written by; None: it has none.
        refresh: When it should be loaded again, and what that took.
        tags: The keys of the tags that vouch for it.
        token: Who holds the lease, in hexadecimal; None: nobody.
        record: The record itself.
    """

    node: int
    kind: str
    ttl: float | None = None
    size: int = 0
    codec: int | None = None
    refresh: Refresh | None = None
    tags: Sequence[bytes] = ()
    token: str | None = None
    record: bytes = b""


def node_infos(
    context: Context, nodes: Sequence[int] | None = None
) -> Operation[list[dict[str, str] | RingCacheError]]:
    """Return what each node of the ring, or each of some nodes, says of itself, or why it does not."""
    asked = range(len(context.ring)) if nodes is None else nodes
    replies = yield Send([(node, (b"INFO",)) for node in asked])
    return [reply if isinstance(reply, RingCacheError) else _info(reply) for reply in replies]


def memory_of(context: Context, keys: Sequence[bytes]) -> Operation[list[int]]:
    """Return how many bytes each key takes at its owner, all in all; what is gone or not told is left out."""
    replies = yield Send([(context.ring.owner(key), (b"MEMORY", b"USAGE", key)) for key in keys])
    return [reply for reply in replies if isinstance(reply, int)]


def _info(text: bytes) -> dict[str, str]:
    lines = [line.partition(":") for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: value for name, _, value in lines if name}


def inspect(context: Context, key: bytes) -> Operation[Inspected]:
    """Return what stands at a key, without loading any value.

    Raises:
        NodeUnavailableError: Its node did not answer.
    """
    node = context.ring.owner(key)
    record, life = yield Send([(node, (b"GET", key)), (node, (b"PTTL", key))])
    if isinstance(record, NodeReplyError):  # of another type: not ours
        return Inspected(node, "unreadable")
    for reply in (record, life):
        if isinstance(reply, RingCacheError):
            raise reply
    if record is None:
        return Inspected(node, "nothing")
    ttl = life / 1000 if life >= 0 else None
    try:
        kind = kind_of(record)
        name = kind.name.lower()
        if kind in {Kind.VALUE, Kind.STALE}:
            stored = stored_of(record)
            tags = list(stored.tags)
            return Inspected(node, name, ttl, len(record), stored.codec, stored.refresh, tags, record=record)
    except RecordError:
        return Inspected(node, "unreadable", ttl, len(record))
    token = record[1:].hex() if kind in {Kind.LEASE, Kind.QUARANTINE} else None
    return Inspected(node, name, ttl, len(record), token=token, record=record)
