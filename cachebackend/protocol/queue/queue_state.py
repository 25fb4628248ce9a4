"""The state of a partition's queue on each node: its batches and its incarnation.

What a node returns is validated here, in one place. A queue that holds bytes which no write puts
there is reported as damaged, and its numbers are not used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cachebackend.effects import Operation, Send
from cachebackend.errors import NodeReplyError, RingCacheError, WriteBehindDamagedError
from cachebackend.interrupts import raise_interrupt
from cachebackend.protocol.queue.encodings import parse_encodings
from cachebackend.protocol.queue.partition import Partition, QueueContext, checked

__all__ = ["QueueState", "dirty", "node_settings", "pairs_of", "parse_numbers", "queue_states"]

#: The most batches that may exist at once; no queue has room for the fields of more.
MAX_BATCHES = 1_000_000
_INCARNATION = re.compile(rb"[0-9a-f]{1,32}")
#: An integer that a Lua number holds exactly.
_NUMBER = re.compile(rb"0|-?[1-9][0-9]{0,14}")


@dataclass(frozen=True, slots=True)
class QueueState:
    """The queue of a partition on one node.

    Attributes:
        node: The node's index.
        incarnation: The queue's incarnation; a queue that was emptied gets another one.
        open_batch: The number of the open batch.
        done: The number of the last batch that was deleted because it was drained.
        fields: The number of fields in all batches.
        since: When the oldest queued write arrived, in seconds since 1970; None if none is queued.
        seals: The seals of sealed batches by batch number, with that of batch ``done``.
        encodings: For each batch number and column the code of the encoding of the queued values.
        bytes: The bytes of the queued fields' names and values, as ``fold.lua`` counts them.
        error: Why the last drain failed; empty if a batch was drained since.
        failed_at: When it failed, in seconds since 1970.
    """

    node: int
    incarnation: str
    open_batch: int
    done: int
    fields: int
    since: float | None
    seals: Mapping[int, str]
    encodings: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    bytes: int = 0
    error: str = ""
    failed_at: float = 0.0


def dirty(queue: QueueContext) -> Operation[tuple[dict[Partition, float], dict[int, RingCacheError]]]:
    """Return the partitions with queued writes and the time of each one's oldest, in one round trip.

    Returns:
        The partitions of the nodes that answered, and by node the errors of the others.
    """
    replies = yield Send(
        [(node, (b"ZRANGE", queue.dirty_keys[node], b"0", b"-1", b"WITHSCORES")) for node in queue.nodes]
    )
    oldest: dict[Partition, float] = {}
    errors: dict[int, RingCacheError] = {}
    for node, reply in zip(queue.nodes, replies, strict=True):
        if isinstance(reply, RingCacheError):
            errors[node] = reply
            continue
        for name, score in pairs_of(reply):
            partition, since = Partition.parse(name), float(score) / 1000
            if partition is not None:
                oldest[partition] = min(since, oldest.get(partition, since))
    return oldest, errors


def queue_states(
    queue: QueueContext, partitions: Sequence[Partition], *, count_open: bool = True
) -> Operation[dict[Partition, dict[int, QueueState | RingCacheError]]]:
    """Return the state of each partition's queues, by node.

    A node that may hold a queue and does not answer has its error as the state.

    Args:
        queue: The queue.
        partitions: The partitions.
        count_open: Whether ``fields`` counts the open batch too, which takes a second round trip.
    """
    pairs = [(node, partition) for partition in partitions for node in queue.holders(partition)]
    metas = yield Send([(node, (b"HGETALL", queue.meta(partition, node))) for node, partition in pairs])
    states: dict[Partition, dict[int, QueueState | RingCacheError]] = {
        partition: {} for partition in partitions
    }
    existing: list[tuple[int, Partition, dict[bytes, bytes]]] = []
    for (node, partition), meta in zip(pairs, metas, strict=True):
        if isinstance(meta, RingCacheError):
            states[partition][node] = meta
        elif meta:
            existing.append((node, partition, dict(pairs_of(meta))))
    known: list[tuple[int, Partition, QueueState]] = []
    for node, partition, meta in existing:
        try:
            known.append((node, partition, _state(queue, node, partition, meta)))
        except WriteBehindDamagedError as error:
            states[partition][node] = error
    if not count_open:
        for node, partition, state in known:
            states[partition][node] = state
        return states
    sizes = [
        (node, (b"HLEN", queue.batch(partition, state.open_batch, node))) for node, partition, state in known
    ]
    replies = (yield Send(sizes)) if sizes else []
    for (node, partition, state), size in zip(known, replies, strict=True):
        is_known = not isinstance(size, RingCacheError)
        states[partition][node] = replace(state, fields=state.fields + size) if is_known else size
    return states


def _state(queue: QueueContext, node: int, partition: Partition, meta: Mapping[bytes, bytes]) -> QueueState:
    """Return a queue's state from its meta hash; ``fields`` counts the sealed batches only.

    Raises:
        WriteBehindDamagedError: The hash holds a value that this package does not write.
    """
    key = queue.meta(partition, node)
    incarnation, open_batch, done = parse_numbers(
        partition, key, meta.get(b"born", b""), meta.get(b"open", b""), meta.get(b"done", b"0")
    )
    since = meta.get(b"since:%d" % (done + 1))
    queued_bytes = meta.get(b"bytes", b"0")
    try:
        return QueueState(
            node,
            incarnation,
            open_batch,
            done,
            fields=_whole(meta.get(b"sealed", b"0")),
            since=None if since is None else _whole(since) / 1000,
            seals={int(name[5:]): seal.decode() for name, seal in meta.items() if name.startswith(b"seal:")},
            encodings={
                int(name[4:]): parse_encodings(partition, text)
                for name, text in meta.items()
                if name.startswith(b"enc:")
            },
            bytes=_whole(queued_bytes) - _whole(meta.get(b"base:%d" % (done + 1), queued_bytes)),
            error=meta.get(b"error", b"").decode(errors="replace"),
            failed_at=_whole(meta.get(b"failed", b"0")) / 1000,
        )
    except ValueError as error:
        raise_interrupt(error)
        message = f"the queue of {partition} is damaged, in its hash {key.decode()}: {error}"
        raise WriteBehindDamagedError(message) from error


def _whole(text: bytes) -> int:
    if not _NUMBER.fullmatch(text):
        message = f"{text[:40]!r} is not an integer"
        raise ValueError(message)
    return int(text)


def parse_numbers(
    partition: Partition, key: bytes, incarnation: bytes, open_batch: bytes, done: bytes
) -> tuple[str, int, int]:
    """Return a queue's incarnation, and the numbers of its open batch and of its last deleted batch.

    Args:
        partition: The partition.
        key: The key of the queue's hash.
        incarnation: What the hash has as ``born``.
        open_batch: What it has as ``open``.
        done: What it has as ``done``.

    Raises:
        WriteBehindDamagedError: One of them is not valid.
    """
    if _INCARNATION.fullmatch(incarnation) and _NUMBER.fullmatch(open_batch) and _NUMBER.fullmatch(done):
        numbers = incarnation.decode(), int(open_batch), int(done)
        if 0 <= numbers[2] < numbers[1] <= numbers[2] + MAX_BATCHES:
            return numbers
    message = (
        f"the queue of {partition} is damaged: its hash {key.decode()} has "
        f"born {incarnation[:40]!r}, "
        f"open {open_batch[:40]!r} and done {done[:40]!r}"
    )
    raise WriteBehindDamagedError(message)


def node_settings(queue: QueueContext, node: int, names: Sequence[bytes]) -> Operation[dict[bytes, str]]:
    """Return settings of a queue node's server; those that the node does not report are left out.

    Raises:
        NodeUnavailableError: The node did not answer.
    """
    replies = yield Send([(node, (b"CONFIG", b"GET", name)) for name in names])
    settings: dict[bytes, str] = {}
    for reply in replies:
        if isinstance(reply, NodeReplyError):  # a managed service may not allow CONFIG
            continue
        reply_pairs = checked(reply)
        settings.update((name, value.decode(errors="replace")) for name, value in pairs_of(reply_pairs))
    return settings


def pairs_of(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Return the fields and values of a hash from the flat list that a node returns."""
    return zip(flat[::2], flat[1::2], strict=True)
