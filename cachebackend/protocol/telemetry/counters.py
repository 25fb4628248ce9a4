"""Hashes of counters that many processes add to, each stored on two nodes, so that one node may fail.

A count is added to both copies at once. A copy lacks what was added while its node was down,
and never holds more than was added; so the higher count of the two is the right one.

A total is read for as long as the project runs, and Prometheus takes one that falls for a restart. So each
copy must get back what it lacks, before the other one is lost:

    1. a reader reads both copies, and remembers by how much each count of a copy is lower;
    2. another process adds to both copies: between its two commands a copy may be lower only for that reason;
    3. the reader reads both copies again. A count that is lower both times, is lower by at least the smaller
       difference, and is raised by it.

A hash that nobody adds to any more, such as that of a minute that is over, is raised at the first read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, TypeAlias

from cachebackend.effects import Argument, Command, Operation, Reply, Request, Script, Send
from cachebackend.errors import NodeUnavailableError, RingCacheError
from cachebackend.protocol.context import Context
from cachebackend.protocol.queue.partition import QueueContext
from cachebackend.replies import integer

__all__ = [
    "Lags",
    "StoredCounts",
    "add_counts",
    "counts_of",
    "higher_of",
    "nodes_of",
    "read_copies",
    "read_counts",
    "read_total",
    "send_to_copies",
    "stored_counts",
]

_COUNT = Script(__package__, "count", reply=integer)
_RAISE = Script(__package__, "raise_counts", reply=integer)
#: The number of nodes that store a hash, if the ring has as many.
COPIES = 2
#: An integer that HINCRBY accepts.
_WHOLE = re.compile(rb"-?[0-9]{1,18}")
#: Both kinds of context have a ring.
_Context: TypeAlias = Context | QueueContext
#: By how much each count of a copy is lower than that of the other copy, by the index of its node.
Lags: TypeAlias = Mapping[int, Mapping[str, int]]


class StoredCounts(NamedTuple):
    """The counters of a hash.

    Attributes:
        counts: The higher count of its copies.
        missing: The nodes of the copies that could not be read, so that a count may be higher.
    """

    counts: dict[str, int]
    missing: Sequence[int] = ()


def nodes_of(context: _Context, key: bytes) -> list[int]:
    """Return the nodes that store a hash."""
    return context.ring.copies(key, COPIES)


def add_counts(
    context: _Context, key: bytes, counts: Mapping[str, int], expire_seconds: int
) -> Operation[RingCacheError | None]:
    """Add to the counters of a hash; return the error if no copy took the counts, or None if one did.

    A node that was sent the command and did not answer may have added them, so it counts as if it
    had: the counts are not sent again.

    Args:
        context: The alias, or the queue.
        key: The key of the hash.
        counts: For each counter the number to add.
        expire_seconds: Seconds after which the hash expires, from now on.
    """
    pairs = [part for name, count in counts.items() for part in (name, b"%d" % count)]
    call = _COUNT.call([key], b"%d" % expire_seconds, *pairs)
    return (yield from send_to_copies(context, key, call))


def send_to_copies(context: _Context, key: bytes, call: Command) -> Operation[RingCacheError | None]:
    """Send a command to each node that stores a hash; return the error if no copy took it, else None."""
    replies = yield Send([(node, call) for node in nodes_of(context, key)])
    refused = [reply for reply in replies if _is_refusal(reply)]
    return refused[0] if len(refused) == len(replies) else None


def _is_refusal(reply: Reply) -> bool:
    """Return whether a reply is the error of a command that the node did not run."""
    if isinstance(reply, NodeUnavailableError):
        return not reply.was_sent
    return isinstance(reply, RingCacheError)


def read_counts(
    context: _Context, keys: Sequence[bytes], settled: Collection[bytes] = (), expire_seconds: int = 0
) -> Operation[list[StoredCounts | RingCacheError]]:
    """Return the counters of each hash, or the error if none of its nodes answered.

    Args:
        context: The alias, or the queue.
        keys: The keys of the hashes.
        settled: Those that nobody adds to any more: counts that are lower in one copy are raised.
        expire_seconds: Seconds after which a hash that is raised expires.
    """
    copies = yield from read_copies(context, keys)
    calls = [
        call
        for key, of_key in zip(keys, copies, strict=True)
        if key in settled
        for call in _level_calls(key, of_key, expire_seconds)
    ]
    if calls:
        yield Send(calls)
    return [stored_counts(of_key) for of_key in copies]


def read_copies(context: _Context, keys: Sequence[bytes]) -> Operation[list[dict[int, Reply]]]:
    """Return for each hash the reply of each node that stores it, by the index of the node."""
    nodes = [nodes_of(context, key) for key in keys]
    asked = [(node, (b"HGETALL", key)) for key, own in zip(keys, nodes, strict=True) for node in own]
    replies = iter((yield Send(asked)))
    return [{node: next(replies) for node in own} for own in nodes]


def stored_counts(copies: Mapping[int, Reply]) -> StoredCounts | RingCacheError:
    """Return the counters of a hash, by the replies of its nodes; the error if none of them answered."""
    counts = higher_of([*copies.values()])
    if isinstance(counts, RingCacheError):
        return counts
    missing = (node for node, reply in copies.items() if isinstance(reply, RingCacheError))
    return StoredCounts(counts, tuple(missing))


def _level_calls(key: bytes, copies: Mapping[int, Reply], expire_seconds: int) -> Iterator[Request]:
    """Yield what raises the counts that are lower in one copy."""
    counts = higher_of([*copies.values()])
    if isinstance(counts, RingCacheError):
        return
    for node, reply in copies.items():
        if not isinstance(reply, RingCacheError):
            own = counts_of(reply)
            floors = {name: count for name, count in counts.items() if count > own.get(name, 0)}
            if floors:
                yield node, _raise_call(key, expire_seconds, {}, floors)


def read_total(
    context: _Context, key: bytes, lags: Lags, expire_seconds: int
) -> Operation[tuple[list[Reply], Lags]]:
    """Read the copies of a total, and raise the counts that are lower in one of them, as above.

    Args:
        context: The alias, or the queue.
        key: The key of the hash.
        lags: What the last call returned; empty at the first call.
        expire_seconds: Seconds after which a hash that is raised expires.

    Returns:
        The reply of each copy, for ``higher_of``; and by how much counts are lower.
    """
    [copies] = yield from read_copies(context, [key])
    replies = [*copies.values()]
    counts = higher_of(replies)
    if isinstance(counts, RingCacheError):
        return replies, {}
    new_lags: dict[int, dict[str, int]] = {}
    calls: list[Request] = []
    for node, reply in copies.items():
        if isinstance(reply, RingCacheError):
            continue
        own = counts_of(reply)
        lag = new_lags[node] = {
            name: low for name, count in counts.items() if (low := count - own.get(name, 0)) > 0
        }
        before = lags.get(node, {})
        floors = {
            name: own.get(name, 0) + min(low, before[name]) for name, low in lag.items() if name in before
        }
        if floors:
            calls.append((node, _raise_call(key, expire_seconds, _texts_of(replies), floors)))
    if calls:
        yield Send(calls)
    return replies, new_lags


def _raise_call(
    key: bytes, expire_seconds: int, texts: Mapping[bytes, bytes], floors: Mapping[str, int]
) -> Command:
    named: list[Argument] = [part for pair in texts.items() for part in pair]
    raised: list[Argument] = [part for name, floor in floors.items() for part in (name, b"%d" % floor)]
    return _RAISE.call([key], b"%d" % expire_seconds, b"%d" % len(texts), *named, *raised)


def higher_of(replies: Sequence[Reply]) -> dict[str, int] | RingCacheError:
    """Return the higher of each count, without values that are not counts; an error if all are errors."""
    answered = [reply for reply in replies if not isinstance(reply, RingCacheError)]
    if not answered:
        error: RingCacheError = replies[-1]
        return error
    counts: dict[str, int] = {}
    for reply in answered:
        for name, count in counts_of(reply).items():
            counts[name] = max(count, counts.get(name, 0))
    return counts


def counts_of(reply: Reply) -> dict[str, int]:
    """Return the fields of a hash that are counts."""
    return {
        name.decode(): int(count)
        for name, count in _pairs(reply)
        if name.isascii() and _WHOLE.fullmatch(count)
    }


def _texts_of(replies: Sequence[Reply]) -> dict[bytes, bytes]:
    """Return the fields of all copies that are not counts: what the counters belong to."""
    fields = chain.from_iterable(map(_pairs, replies))
    return {name: text for name, text in fields if name.isalnum() and not _WHOLE.fullmatch(text)}


def _pairs(reply: Reply) -> Iterable[tuple[bytes, bytes]]:
    return () if isinstance(reply, RingCacheError) else zip(reply[::2], reply[1::2], strict=True)
