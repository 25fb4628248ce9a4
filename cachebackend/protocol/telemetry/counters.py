"""Hashes of counts that many processes add to, each kept on two nodes, so that one that dies hides none.

A count is added to both copies at once. A copy lacks what was added while its node was away,
and never holds what the other should not; so the higher count of the two is the right one.
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

__all__ = ["add_counts", "counts_of", "note_time"]

_COUNT = Script(__package__, "count")
#: On how many nodes a hash is kept, if there are so many.
COPIES = 2
#: What a node can add to.
_WHOLE = re.compile(rb"-?[0-9]{1,18}")
#: Both have a ring.
_Context: TypeAlias = Context | QueueContext


def _homes(context: _Context, key: bytes, copies: int) -> list[int]:
    """Return the nodes that keep a hash: its owner, and the next in the settings' order."""
    owner, nodes = context.ring.owner(key), len(context.ring)
    return [(owner + at) % nodes for at in range(min(copies, nodes))]


def add_counts(
    context: _Context, key: bytes, counts: Mapping[str, int], keep_seconds: int, copies: int = COPIES
) -> Operation[RingCacheError | None]:
    """Add to the counts of a hash; return why no copy of it took them, or None if one did.

    A node that was asked and did not answer may have added them, and is taken to have.

    Args:
        context: The alias, or the queue.
        key: The hash.
        counts: What is added to which count.
        keep_seconds: For how long the hash is kept after this.
        copies: On how many nodes it is kept.
    """
    pairs = [part for pair in counts.items() for part in pair]
    call = _COUNT.call([key], keep_seconds, *pairs)
    replies = yield Send([(node, call) for node in _homes(context, key, copies)])
    refused = [reply for reply in replies if _is_refusal(reply)]
    return refused[0] if len(refused) == len(replies) else None


def _is_refusal(reply: Reply) -> bool:
    if isinstance(reply, NodeUnavailableError):
        return not reply.was_sent
    return isinstance(reply, RingCacheError)


def note_time(context: _Context, key: bytes, name: str, at: int, keep_seconds: int) -> Operation[None]:
    """Write a time, in any whole unit, into a hash, to be read as its counts are: the latest one stands."""
    yield Send(
        [
            request
            for node in _homes(context, key, COPIES)
            for request in ((node, (b"HSET", key, name, at)), (node, (b"EXPIRE", key, keep_seconds)))
        ]
    )


def counts_of(
    context: _Context, keys: Sequence[bytes], copies: int = COPIES
) -> Operation[list[dict[str, int] | RingCacheError]]:
    """Return the counts of each hash, or why none of its nodes tells them."""
    asked = [[(node, (b"HGETALL", key)) for node in _homes(context, key, copies)] for key in keys]
    replies = iter((yield Send([*chain.from_iterable(asked)])))
    return [_merged([next(replies) for _ in homes]) for homes in asked]


def _merged(replies: Sequence[Reply]) -> dict[str, int] | RingCacheError:
    """Return the higher of each count, without what is no count; the last error if no copy was told."""
    told = [reply for reply in replies if not isinstance(reply, RingCacheError)]
    if not told:
        error: RingCacheError = replies[-1]
        return error
    counts: dict[str, int] = {}
    for reply in told:
        for told_name, count in zip(reply[::2], reply[1::2], strict=True):
            if told_name.isascii() and _WHOLE.fullmatch(count):
                name = told_name.decode()
                counts[name] = max(int(count), counts.get(name, 0))
    return counts
