"""Hashes of counters that many processes add to, each stored on two nodes, so that one node may fail.

A count is added to both copies at once. A copy lacks what was added while its node was down,
and never holds more than was added; so the higher count of the two is the right one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TypeAlias

from cachebackend.effects import Operation, Reply, Script, Send
from cachebackend.errors import NodeUnavailableError, RingCacheError
from cachebackend.protocol.context import Context
from cachebackend.protocol.queue.partition import QueueContext
from cachebackend.replies import integer

__all__ = ["COPIES", "add_counts", "higher_of", "is_refusal", "nodes_of", "read_counts", "record_time"]

_COUNT = Script(__package__, "count", reply=integer)
#: The number of nodes that store a hash, if the ring has as many.
COPIES = 2
#: An integer that HINCRBY accepts.
_WHOLE = re.compile(rb"-?[0-9]{1,18}")
#: Both kinds of context have a ring.
_Context: TypeAlias = Context | QueueContext


def nodes_of(context: _Context, key: bytes, copies: int) -> list[int]:
    """Return the nodes that store a hash: its owner, and the next in the order of the settings."""
    owner, nodes = context.ring.owner(key), len(context.ring)
    return [(owner + offset) % nodes for offset in range(min(copies, nodes))]


def add_counts(
    context: _Context, key: bytes, counts: Mapping[str, int], expire_seconds: int, copies: int = COPIES
) -> Operation[RingCacheError | None]:
    """Add to the counters of a hash; return the error if no copy took the counts, or None if one did.

    A node that was sent the command and did not answer may have added them, so it counts as if it
    had: the counts are not sent again.

    Args:
        context: The alias, or the queue.
        key: The key of the hash.
        counts: For each counter the number to add.
        expire_seconds: Seconds after which the hash expires, from now on.
        copies: The number of nodes that store it.
    """
    pairs = [part for name, count in counts.items() for part in (name, b"%d" % count)]
    call = _COUNT.call([key], b"%d" % expire_seconds, *pairs)
    replies = yield Send([(node, call) for node in nodes_of(context, key, copies)])
    refused = [reply for reply in replies if is_refusal(reply)]
    return refused[0] if len(refused) == len(replies) else None


def is_refusal(reply: Reply) -> bool:
    """Return whether a reply is the error of a command that the node did not run."""
    if isinstance(reply, NodeUnavailableError):
        return not reply.was_sent
    return isinstance(reply, RingCacheError)


def record_time(context: _Context, key: bytes, name: str, at: int, expire_seconds: int) -> Operation[None]:
    """Store a time, in any whole unit, in a hash as a counter; of the copies the latest time is read."""
    commands = (b"HSET", key, name, b"%d" % at), (b"EXPIRE", key, b"%d" % expire_seconds)
    yield Send([(node, command) for node in nodes_of(context, key, COPIES) for command in commands])


def read_counts(
    context: _Context, keys: Sequence[bytes], copies: int = COPIES
) -> Operation[list[dict[str, int] | RingCacheError]]:
    """Return the counters of each hash, or the error if none of its nodes answered."""
    requests = [[(node, (b"HGETALL", key)) for node in nodes_of(context, key, copies)] for key in keys]
    replies = iter((yield Send([*chain.from_iterable(requests)])))
    return [higher_of([next(replies) for _ in nodes]) for nodes in requests]


def higher_of(replies: Sequence[Reply]) -> dict[str, int] | RingCacheError:
    """Return the higher of each count, without values that are not counts; an error if all are errors."""
    answered = [reply for reply in replies if not isinstance(reply, RingCacheError)]
    if not answered:
        error: RingCacheError = replies[-1]
        return error
    counts: dict[str, int] = {}
    for reply in answered:
        for raw_name, count in zip(reply[::2], reply[1::2], strict=True):
            if raw_name.isascii() and _WHOLE.fullmatch(count):
                name = raw_name.decode()
                counts[name] = max(int(count), counts.get(name, 0))
    return counts
