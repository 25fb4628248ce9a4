"""The write-behind queue: writes folded into numbered batches, a Redis hash each.

A partition has one open batch, which takes writes, and sealed ones, which never change
again. Batches are numbered from 1 without gaps, for an empty one is never sealed. The
number of the last batch that landed stands in the database, in the transaction that
landed it; the queue only ever forgets what that number covers.

A queue is born once, with a name of its own: a node that was emptied, or is another, bears
another incarnation, and its numbers mean nothing to the checkpoint of the first. So is a
seal: a node that came back with an older file comes to the same numbers again, but not to
the same seals. The seal of the last batch that landed stands until the next one is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from cachebackend.effects import Command, Operation, Reply, Script, Send
from cachebackend.errors import NodeReplyError, RingCacheError, WriteBehindDamagedError, WriteBehindError
from cachebackend.protocol.folding import FSYNC_MS
from cachebackend.protocol.partitions import DIRTY, Partition, QueueContext, checked

__all__ = [
    "Pending",
    "Place",
    "Sealed",
    "close",
    "contents",
    "dirty",
    "node_settings",
    "pending",
    "places",
    "renumber",
    "seal",
    "sync",
    "sync_fault",
]

_SEAL = Script("cachebackend.protocol", "seal")
_CLOSE = Script("cachebackend.protocol", "close")
_PENDING = Script("cachebackend.protocol", "pending")
_RENUMBER = Script("cachebackend.protocol", "renumber")

#: Fields that a node hands over at once, so that it stays responsive.
SCAN_COUNT = 5000
#: Fields that one script reads; Lua's stack has room for 8000.
PENDING_FIELDS = 4000
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


class Sealed(NamedTuple):
    """How a partition stands after a batch was to be sealed.

    Attributes:
        opened: The number of the open batch.
        done: The last batch that was dropped.
        synced: The last batch known to be sealed on the disk.
        before: The seal of the batch before; empty if it has none.
        seal: The seal of the batch; empty if it is not sealed.
    """

    opened: int
    done: int
    synced: int
    before: str
    seal: str


class Pending(NamedTuple):
    """What the batches of one place hold of some rows.

    Attributes:
        born: The queue's incarnation.
        done: The last batch that was dropped.
        batches: Each batch that stands, in order: its number and the fields that it holds.
    """

    born: str
    done: int
    batches: list[tuple[int, dict[bytes, bytes]]]


def seal(queue: QueueContext, place: Place, partition: Partition, number: int) -> Operation[Sealed]:
    """Seal a batch if it is the open one and not empty; return how the partition stands after it.

    Raises:
        NodeUnavailableError: The node did not answer.
        WriteBehindError: It holds another queue by now.
    """
    [reply] = yield Send([_seal_request(queue, place, partition, number)])
    if not checked(reply):
        name = queue.options.all_nodes[place.node].name
        message = f"the queue of {partition} on node {name!r} was emptied while it was drained; drain again"
        raise WriteBehindError(message)
    opened, done, synced, before, seal = reply
    return Sealed(opened, done, synced, before.decode(), seal.decode())


def seal_many(queue: QueueContext, places: Mapping[Partition, Place]) -> Operation[None]:
    """Seal the open batches on one node where no other is sealed, and bring all seals to its disk.

    While a sealed batch waits to land, writes fold into the open one: else the queue would
    grow with every call, and not with the rows that are written.

    Raises:
        NodeUnavailableError, WriteBehindError: As ``sync``.
    """
    asked = places.items()
    replies = yield Send([_seal_request(queue, place, part, place.done + 1) for part, place in asked])
    unsynced: dict[int, dict[Partition, int]] = {}
    for (partition, place), reply in zip(asked, replies, strict=True):
        if checked(reply):  # else another queue stands there by now
            opened, _, synced, *_ = reply
            if synced < opened - 1:
                unsynced.setdefault(place.node, {})[partition] = opened - 1
    for node, sealed in unsynced.items():
        yield from sync(queue, node, sealed)


def _seal_request(
    queue: QueueContext, place: Place, partition: Partition, number: int
) -> tuple[int, Command]:
    keys = [partition.meta, partition.batch(number)]
    return place.node, _SEAL.call(keys, number, queue.clock.token().hex(), place.born)


def sync(queue: QueueContext, node: int, sealed: Mapping[Partition, int]) -> Operation[None]:
    """See to it that what is sealed stays so: return once the node's disk has it.

    1. a batch is sealed, in memory;  2. it lands, the database has its number;  3. the node
    dies before its file has the seal;  4. it comes back with the batch open, and takes
    writes into it that will never land. So 2 waits for the file.

    Args:
        queue: The queue.
        node: The node.
        sealed: For each partition the last batch that is sealed.

    Raises:
        WriteBehindError: The node writes no append-only file, or not in time.
    """
    # A write of this connection, for what WAITAOF waits for is the connection's own last one
    touches: list[tuple[int, Command]] = [
        (node, (b"HINCRBY", partition.meta, b"syncs", 1)) for partition in sealed
    ]
    replies = yield Send([*touches, (node, (b"WAITAOF", 1, 0, FSYNC_MS))])
    name = queue.options.all_nodes[node].name
    if isinstance(replies[-1], NodeReplyError):
        message = (
            f"queue node {name!r} {_no_sync(replies[-1])}, "
            "or set WRITE_BEHIND['durability'] to 'memory' if its writes may be lost with it"
        )
        raise WriteBehindError(message) from replies[-1]
    if checked(replies[-1])[0] < 1:
        message = f"queue node {name!r} did not get its file to the disk within {FSYNC_MS} ms"
        raise WriteBehindError(message)
    yield Send([(node, (b"HSET", partition.meta, b"synced", number)) for partition, number in sealed.items()])


def sync_fault(queue: QueueContext, node: int) -> Operation[str | None]:
    """Return why a node could not tell when its file is on its disk; None if it can.

    Raises:
        NodeUnavailableError: The node did not answer.
    """
    [reply] = yield Send([(node, (b"WAITAOF", 0, 0, 1))])  # asks for nothing, so nothing is waited for
    if isinstance(reply, NodeReplyError):
        return _no_sync(reply)
    checked(reply)
    return None


def _no_sync(error: NodeReplyError) -> str:
    """Return what a node cannot do that answered WAITAOF so, and what to do about it."""
    if "unknown command" in str(error):
        way_out = "a queue node must be Redis 7.2 or later, or Valkey"
    elif error.code == "NOPERM":
        way_out = "let its user call WAITAOF"
    else:
        way_out = "turn its append-only file on"
    return f"cannot tell when its file is on its disk ({error}); {way_out}"


def contents(
    queue: QueueContext, node: int, partition: Partition, number: int
) -> Operation[dict[bytes, bytes]]:
    """Return the fields of a sealed batch: row, column and kind to value; empty if it is gone."""
    key = partition.batch(number)
    fields: dict[bytes, bytes] = {}
    cursor = b"0"
    while True:
        [reply] = yield Send([(node, (b"HSCAN", key, cursor, b"COUNT", SCAN_COUNT))])
        cursor, flat = checked(reply)
        fields.update(_pairs(flat))
        if cursor == b"0":
            return fields


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


def close(queue: QueueContext, place: Place, partition: Partition, numbers: range) -> Operation[bool]:
    """Drop batches that the database holds; return whether more writes wait. May be repeated."""
    batches = [partition.batch(number) for number in (*numbers, numbers[-1] + 1)]
    keys = [partition.meta, DIRTY, *batches]
    call = _CLOSE.call(keys, numbers[0], numbers[-1], queue.now_ms(), partition.name, place.born)
    [reply] = yield Send([(place.node, call)])
    return bool(checked(reply))


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
            for name, score in _pairs(reply):
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
            standing.append((node, partition, dict(_pairs(meta))))
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
    born, opened, done = _numbers(
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


def _numbers(partition: Partition, born: bytes, opened: bytes, done: bytes) -> tuple[str, int, int]:
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


def pending(
    queue: QueueContext, node: int, partition: Partition, fields: Sequence[bytes]
) -> Operation[Pending | None]:
    """Return what the batches on one node hold of some fields, at one instant; None if it has no queue.

    Raises:
        NodeUnavailableError: The node did not answer.
        WriteBehindDamagedError: What it holds is no queue.
    """
    opened = queue.opened.get((node, partition), 1)
    first, last = max(opened - 1, 1), opened + 1
    while True:
        keys = [partition.batch(number) for number in range(first, last + 1)]
        calls = [
            (node, _PENDING.call([partition.meta, *keys], first, *fields[at : at + PENDING_FIELDS]))
            for at in range(0, len(fields), PENDING_FIELDS)
        ]
        replies: list[Reply] = yield Send(calls)
        for reply in replies:
            checked(reply)
        if not replies[0]:
            return None
        born, now_open, done = _numbers(partition, *replies[0][0])
        queue.opened[node, partition] = now_open
        if any(reply[0] != replies[0][0] or len(reply) == 1 for reply in replies):
            first, last = done + 1, now_open + 1
            continue
        batches: dict[int, dict[bytes, bytes]] = {}
        for at, reply in zip(range(0, len(fields), PENDING_FIELDS), replies, strict=True):
            for number, values in reply[1:]:
                batches.setdefault(number, {}).update(
                    (name, value)
                    for name, value in zip(fields[at : at + PENDING_FIELDS], values, strict=True)
                    if value is not None
                )
        return Pending(born, done, sorted(batches.items()))


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
        found.update((name, value.decode()) for name, value in _pairs(pairs))
    return found


def renumber(
    queue: QueueContext,
    place: Place,
    partition: Partition,
    landed: tuple[int, str],
    standing: Sequence[int],
    *,
    keep: bool,
) -> Operation[int]:
    """Put a queue that is behind its checkpoint after it again; return the number then open.

    Args:
        queue: The queue.
        place: The queue as it was last seen.
        partition: The partition.
        landed: The number of the last batch that landed, and its seal.
        standing: The numbers of the batches that stand, in order, without a gap.
        keep: Whether what they hold is to land, or to be dropped.
    """
    number, seal = landed
    old = [partition.batch(each) for each in standing]
    new = [partition.batch(number + 1 + at) for at in range(len(standing))]
    call = _RENUMBER.call(
        [partition.meta, DIRTY, *old, *new],
        number,
        partition.name,
        "keep" if keep else "drop",
        place.opened,
        seal,
        queue.clock.token().hex(),
    )
    [reply] = yield Send([(place.node, call)])
    queue.opened.pop((place.node, partition), None)
    return int(checked(reply))
