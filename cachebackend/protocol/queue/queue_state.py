"""Where a partition's queue stands: which batches there are, on which node, of which incarnation.

What a node says of itself is looked at here, once: a queue that holds what no write puts there is
told as damaged, and nobody acts on its numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cachebackend.effects import Operation, Send
from cachebackend.errors import NodeReplyError, RingCacheError, WriteBehindDamagedError
from cachebackend.protocol.queue.partition import DIRTY, Partition, QueueContext, checked

__all__ = ["Place", "dirty", "node_settings", "numbers_of", "pairs_of", "places"]

#: Batches that may stand at once: more than any queue has fields for.
MOST_BATCHES = 1_000_000
_BORN = re.compile(rb"[0-9a-f]{1,32}")
#: A number that Lua has whole.
_NUMBER = re.compile(rb"0|-?[1-9][0-9]{0,14}")


@dataclass(frozen=True, slots=True)
class Place:
    """The queue of a partition on one node.

    Attributes:
        node: The node's index.
        born: The queue's incarnation.
        opened: The number of the open batch.
        done: The last batch that was dropped because it had landed.
        fields: How many fields all batches hold.
        since: When the oldest write that waits came, in seconds since 1970; None if none waits.
        seals: The seals of sealed batches, the last one that was dropped included.
    """

    node: int
    born: str
    opened: int
    done: int
    fields: int
    since: float | None
    seals: Mapping[int, str]


def dirty(queue: QueueContext) -> Operation[dict[Partition, float]]:
    """Return the partitions that hold writes and the time of each one's oldest, in one round trip.

    Raises:
        NodeUnavailableError: No queue node answered; one that answers is enough to go on.
    """
    replies = yield Send([(node, (b"ZRANGE", DIRTY, 0, -1, b"WITHSCORES")) for node in queue.nodes])
    failures = [reply for reply in replies if isinstance(reply, RingCacheError)]
    if len(failures) == len(replies):
        raise failures[0]
    found: dict[Partition, float] = {}
    for reply in replies:
        if not isinstance(reply, RingCacheError):
            for name, score in pairs_of(reply):
                partition, since = Partition.named(name), float(score) / 1000
                if partition is not None:
                    found[partition] = min(since, found.get(partition, since))
    return found


def places(
    queue: QueueContext, partitions: Sequence[Partition]
) -> Operation[dict[Partition, dict[int, Place | RingCacheError]]]:
    """Return where each partition's queues stand, by node, in two round trips.

    A node that does not answer, and may hold one, has its error in the place's stead.
    """
    asked = [(node, partition) for partition in partitions for node in queue.nodes]
    metas = yield Send([(node, (b"HGETALL", partition.meta)) for node, partition in asked])
    found: dict[Partition, dict[int, Place | RingCacheError]] = {partition: {} for partition in partitions}
    standing: list[tuple[int, Partition, dict[bytes, bytes]]] = []
    for (node, partition), meta in zip(asked, metas, strict=True):
        if isinstance(meta, RingCacheError):
            found[partition][node] = meta
        elif meta:
            standing.append((node, partition, dict(pairs_of(meta))))
    known: list[tuple[int, Partition, Place]] = []
    for node, partition, meta in standing:
        try:
            known.append((node, partition, _place(node, partition, meta)))
        except WriteBehindDamagedError as error:
            found[partition][node] = error
    sizes = [(node, (b"HLEN", partition.batch(place.opened))) for node, partition, place in known]
    replies = (yield Send(sizes)) if sizes else []
    for (node, partition, place), size in zip(known, replies, strict=True):
        is_known = not isinstance(size, RingCacheError)
        found[partition][node] = replace(place, fields=place.fields + size) if is_known else size
    return found


def _place(node: int, partition: Partition, meta: Mapping[bytes, bytes]) -> Place:
    """Return a queue by its meta hash; its fields are those of the sealed batches.

    Raises:
        WriteBehindDamagedError: Something in it is none of ours.
    """
    born, opened, done = numbers_of(
        partition, meta.get(b"born", b""), meta.get(b"open", b""), meta.get(b"done", b"0")
    )
    since = meta.get(b"since:%d" % (done + 1))
    try:
        return Place(
            node,
            born,
            opened,
            done,
            fields=_whole(meta.get(b"sealed", b"0")),
            since=None if since is None else _whole(since) / 1000,
            seals={int(name[5:]): seal.decode() for name, seal in meta.items() if name.startswith(b"seal:")},
        )
    except ValueError as error:
        message = f"the queue of {partition} is damaged, in its hash {partition.meta.decode()}: {error}"
        raise WriteBehindDamagedError(message) from error


def _whole(text: bytes) -> int:
    if not _NUMBER.fullmatch(text):
        message = f"{text[:40]!r} is no number"
        raise ValueError(message)
    return int(text)


def numbers_of(partition: Partition, born: bytes, opened: bytes, done: bytes) -> tuple[str, int, int]:
    """Return a queue's incarnation, its open batch and the last that it dropped, from what stands there.

    Raises:
        WriteBehindDamagedError: They are none.
    """
    if _BORN.fullmatch(born) and _NUMBER.fullmatch(opened) and _NUMBER.fullmatch(done):
        found = born.decode(), int(opened), int(done)
        if 0 <= found[2] < found[1] <= found[2] + MOST_BATCHES:
            return found
    message = (
        f"the queue of {partition} is damaged: its hash {partition.meta.decode()} has born {born[:40]!r}, "
        f"open {opened[:40]!r} and done {done[:40]!r}"
    )
    raise WriteBehindDamagedError(message)


def node_settings(queue: QueueContext, node: int, names: Sequence[bytes]) -> Operation[dict[bytes, str]]:
    """Return settings of a queue node's server; those that it does not tell are left out.

    Raises:
        NodeUnavailableError: The node did not answer.
    """
    replies = yield Send([(node, (b"CONFIG", b"GET", name)) for name in names])
    found: dict[bytes, str] = {}
    for reply in replies:
        if isinstance(reply, NodeReplyError):  # a managed server may keep it to itself
            continue
        pairs = checked(reply)
        found.update((name, value.decode()) for name, value in pairs_of(pairs))
    return found


def pairs_of(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Return the fields and values of a hash, as a script hands them over."""
    return zip(flat[::2], flat[1::2], strict=True)
