"""Reading batches: all fields of one, or some fields of every batch at one instant.

Writes are folded into numbered batches, one Redis hash each. A partition has one open batch,
which takes writes, and sealed ones, which never change again. Batches are numbered from 1
without gaps, because an empty batch is never sealed. The number of the last drained batch is
stored in the database, in the transaction that applied the batch; the queue deletes only
batches up to that number.

A queue gets a random incarnation when it is created. A node that was emptied or replaced has
another incarnation, so its numbers are never compared with the checkpoint of the first. A seal
is random too: a node that came back with an older file reaches the same numbers again, but not
the same seals. The seal of the last drained batch is kept until the next batch is deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from cachebackend.effects import Operation, Reply, Script, Send
from cachebackend.protocol.queue.counts import count_of, count_request
from cachebackend.protocol.queue.encodings import Encodings, parse_encodings
from cachebackend.protocol.queue.partition import Partition, QueueContext, checked
from cachebackend.protocol.queue.queue_state import pairs_of, parse_numbers
from cachebackend.protocol.rounds import MAX_TRIES, Cursor, endless
from cachebackend.replies import either, integer, items, list_of, optional_text, row, text

__all__ = ["Pending", "PendingFields", "batch_sizes", "contents", "pending"]

_BATCH = row(integer, text, list_of(optional_text), text)
_PAGES = either(row(), items(row(text, text, text, text), _BATCH))


def _pending_reply(reply: Reply, command: Sequence[Any]) -> bool:
    """Match what ``pending.lua`` returns: each batch has a value or None for each requested field."""
    fields = len(command) - 4 - int(command[2])
    return _PAGES(reply, command) and all(len(batch[2]) == fields for batch in reply[1:])


_PENDING = Script(__package__, "pending", reply=_pending_reply)

#: The most fields that a node returns in one reply, so that it stays responsive.
MAX_SCAN_COUNT = 5000
#: Fields of the first reply, while the size of the values is not known.
FIRST_SCAN_COUNT = 10
#: Bytes of one reply, about. The node's output buffers count as its memory.
SCAN_BYTES = 1_000_000
#: Fields that one script call reads; Lua's stack has room for 8000.
PENDING_FIELDS = 4000


class PendingFields(NamedTuple):
    """The requested fields that one batch holds.

    Attributes:
        incarnation: The incarnation of its queue; empty if the fields are parked.
        number: The batch's number.
        fields: Those of the requested fields that it holds.
        encodings: For each column the code of the encoding of its values.
    """

    incarnation: str
    number: int
    fields: dict[bytes, bytes]
    encodings: Encodings


class Pending(NamedTuple):
    """What the batches of one queue hold of some rows.

    Attributes:
        incarnation: The queue's incarnation.
        open_batch: The number of the open batch.
        done: The number of the last batch that was deleted.
        seals: The seals of the sealed batches by number, with that of batch ``done``.
        batches: Each existing batch, in order, and the requested fields that it holds.
    """

    incarnation: str
    open_batch: int
    done: int
    seals: dict[int, str]
    batches: list[PendingFields]


def contents(
    queue: QueueContext, node: int, partition: Partition, number: int
) -> Operation[dict[bytes, bytes]]:
    """Return the fields of a sealed batch: row, column and kind to value; empty if it was deleted."""
    key = queue.batch(partition, number, node)
    fields: dict[bytes, bytes] = {}
    cursor, count = Cursor(), FIRST_SCAN_COUNT
    while True:
        [reply] = yield Send([(node, (b"HSCAN", key, cursor.text, b"COUNT", b"%d" % count))])
        text_, flat = checked(reply)
        fields.update(pairs_of(flat))
        if not cursor.move(text_, queue.fail_node, node):
            return fields
        field_bytes = sum(map(len, flat)) / max(len(flat) // 2, 1)
        count = min(int(SCAN_BYTES / max(field_bytes, 1)) + 1, 10 * count, MAX_SCAN_COUNT)


def pending(
    queue: QueueContext, node: int, partition: Partition, fields: Sequence[bytes]
) -> Operation[tuple[Pending | None, int | None]]:
    """Read some fields of all batches on one node at one instant, and then its number of partitions.

    Returns:
        The fields, None if the node has no queue; and the number, None if it has none.

    Raises:
        NodeUnavailableError: The node did not answer.
        WriteBehindDamagedError: The node holds something that is not a valid queue or number.
    """
    open_batch = queue.open_batches.get((node, partition.name), 1)
    first, last = max(open_batch - 1, 1), open_batch + 1
    for _ in range(MAX_TRIES):
        keys = [queue.batch(partition, number, node) for number in range(first, last + 1)]
        keys.insert(0, queue.meta(partition, node))
        calls = [
            (node, _PENDING.call(keys, b"%d" % first, *fields[start : start + PENDING_FIELDS]))
            for start in range(0, len(fields), PENDING_FIELDS)
        ]
        replies: list[Reply] = yield Send([*calls, count_request(queue, node)])
        count = count_of(queue, node, replies.pop())
        for reply in replies:
            checked(reply)
        if not replies[0]:
            return None, count
        *numbers, last_seal = replies[0][0]
        incarnation, open_batch, done = parse_numbers(partition, keys[0], *numbers)
        queue.open_batches[node, partition.name] = open_batch
        if any(reply[0] != replies[0][0] or len(reply) == 1 for reply in replies):
            first, last = done + 1, open_batch + 1
            continue
        seals = {done: last_seal.decode(errors="replace")}
        batches: dict[int, PendingFields] = {}
        for start, reply in zip(range(0, len(fields), PENDING_FIELDS), replies, strict=True):
            for number, seal, values, encodings in reply[1:]:
                seals[number] = seal.decode(errors="replace")
                codes = parse_encodings(partition, encodings)
                batch = batches.setdefault(number, PendingFields(incarnation, number, {}, codes))
                batch.fields.update(
                    (name, value)
                    for name, value in zip(fields[start : start + PENDING_FIELDS], values, strict=True)
                    if value is not None
                )
        in_order = sorted(batches.values(), key=attrgetter("number"))
        return Pending(incarnation, open_batch, done, seals, in_order), count
    raise endless(queue.fail_node, node)


def batch_sizes(
    queue: QueueContext, node: int, partition: Partition, numbers: Sequence[int]
) -> Operation[dict[int, int]]:
    """Return the number of fields in each of some batches; 0 if the batch does not exist.

    Raises:
        NodeUnavailableError: The node did not answer.
    """
    if not numbers:
        return {}
    replies = yield Send([(node, (b"HLEN", queue.batch(partition, number, node))) for number in numbers])
    return {number: int(checked(reply)) for number, reply in zip(numbers, replies, strict=True)}
