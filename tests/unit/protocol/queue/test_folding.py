"""Writes that are folded into the open batch of their partition."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.effects import is_promise
from cachebackend.errors import (
    MovingSlotError,
    NodeReplyError,
    NodeUnavailableError,
    UnconfirmedError,
    WriteBehindDamagedError,
    WriteBehindMovedError,
    WriteBehindUnknownError,
)
from cachebackend.protocol.queue.folding import OK, Folded, RowWrite, fold, fold_request, fold_result
from cachebackend.protocol.queue.partition import Partition
from tests.unit.protocol.stepping import DOWN, SENT_AND_LOST, queue_of, step

METER = Partition("shop.meter", 0)
KEYS = queue_of("a")
ENTRY = b"\0count\0i\0"
WRITES = [RowWrite(b"u", b"%d\0" % n, ((b"%d\0count\0" % n, b"d", b"1"),), (ENTRY,)) for n in (1, 2, 3)]


def unconfirmed(reply: Any) -> UnconfirmedError:
    error = UnconfirmedError("0 of 1 replicas")
    error.reply = reply
    return error


def test_a_write_names_the_open_batch_and_the_next() -> None:
    """The open batch as last seen; the script refuses if another batch is open by now."""
    queue = queue_of("a")
    node, call = fold_request(queue, METER, WRITES[:1])
    assert (node, call[3:7]) == (
        0,
        (KEYS.meta(METER), KEYS.batch(METER, 1), KEYS.batch(METER, 2), KEYS.dirty_keys[0]),
    )
    assert call[-5:] == (b"1\0", b"1", b"1\0count\0", b"d", b"1")
    queue.open_batches[0, METER.name] = 7
    _, call = fold_request(queue, METER, WRITES[:1])
    assert call[4:6] == (KEYS.batch(METER, 7), KEYS.batch(METER, 8))


def test_a_call_names_the_encoding_of_each_column_once() -> None:
    """Before the rows, for any number of rows that change the column."""
    other = WRITES[1]._replace(encodings=(ENTRY, b"\0level\0n2\0"))
    _, call = fold_request(queue_of("a"), METER, [WRITES[0], other, WRITES[2]])
    assert call[12] == b"\0count\0i\0\0level\0n2\0"
    _, call = fold_request(queue_of("a"), METER, WRITES[:1])
    assert call[12] == ENTRY


def test_a_write_is_a_promise() -> None:
    """So the node waits for its disk or for replicas, according to the settings."""
    _, call = fold_request(queue_of("a"), METER, WRITES[:1])
    assert is_promise(call)


def test_the_open_batch_of_the_reply_is_used_next() -> None:
    """A positive number means that all rows were folded."""
    queue = queue_of("a")
    assert fold_result(queue, METER, 3, 4) == Folded([OK] * 3)
    assert queue.open_batches[0, METER.name] == 4


def test_a_row_may_be_refused_while_others_are_folded() -> None:
    """Each row has its own code."""
    assert fold_result(queue_of("a"), METER, 2, [4, OK, b"full"]) == Folded([OK, b"full"])


def test_writes_are_sent_again_if_another_batch_is_open() -> None:
    """To that batch; the script folded nothing."""
    [folded], requests = step(fold(queue_of("a"), [(METER, WRITES)]), [-5], [5])
    assert folded == Folded([OK] * 3)
    assert [command[2] for [(_, command)] in requests] == [KEYS.batch(METER, 1), KEYS.batch(METER, 5)]


def test_rows_without_a_code_are_sent_again() -> None:
    """A batch was sealed in the middle of a call: the rest goes into the next one."""
    [folded], requests = step(fold(queue_of("a"), [(METER, WRITES)]), [[2, OK]], [2])
    assert folded.codes == [OK] * 3
    assert requests[1][0][1].count(b"u") == 2


def test_partitions_share_a_round_trip() -> None:
    """One that is finished is not asked again."""
    other = Partition("shop.meter", 1)
    results, requests = step(fold(queue_of("a"), [(METER, WRITES), (other, WRITES)]), [1, -2], [2])
    assert [each.codes for each in results] == [[OK] * 3, [OK] * 3]
    assert [len(trip) for trip in requests] == [2, 1]


def test_a_queue_that_refuses_all_writes_is_damaged() -> None:
    """The batch that it names as open refuses each attempt; the number of attempts is limited."""
    [folded], requests = step(fold(queue_of("a"), [(METER, WRITES)]), *([[-2]] * 100))
    assert isinstance(folded.error, WriteBehindDamagedError)
    assert (folded.codes, len(requests)) == ((), 100)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (DOWN, NodeUnavailableError),
        (SENT_AND_LOST, WriteBehindUnknownError),
        (NodeReplyError("OOM"), NodeReplyError),
        (unconfirmed(1), WriteBehindUnknownError),
        (MovingSlotError(), MovingSlotError),
    ],
)
def test_a_write_that_was_not_acknowledged_is_an_error(reply: Any, error: type[Exception]) -> None:
    """If it was sent, or a disk or a replica did not confirm it, it is unknown whether it was folded."""
    folded = fold_result(queue_of("a"), METER, 1, reply)
    assert folded is not None
    assert type(folded.error) is error


def test_a_write_that_was_not_taken_needs_no_confirmation() -> None:
    """Another batch is open: the write is sent again."""
    assert fold_result(queue_of("a"), METER, 1, unconfirmed(-2)) is None


def test_a_write_names_its_limits_and_the_number_of_partitions_that_it_used() -> None:
    """That of its partition, although the process has seen another number since; the reply is followed."""
    queue = queue_of("a", partitions=8)
    _, call = fold_request(queue, METER, WRITES[:1])
    assert call[11] == b"10000 125000 16777216 33554432 8 shop.meter:0"
    _, call = fold_request(queue, Partition("shop.meter", 0, 4), WRITES[:1])
    assert call[11] == b"10000 250000 16777216 67108864 4 shop.meter:0"
    folded = fold_result(queue, METER, 1, NodeReplyError("PARTITIONS 16"))
    assert folded is not None
    assert isinstance(folded.error, WriteBehindMovedError)
    assert queue.partitions == 16


@pytest.mark.parametrize("number", ["", " ", " x", " 7 8", " 0"])
def test_a_node_that_names_no_number_of_partitions_is_damaged(number: str) -> None:
    """The number that the process uses stays."""
    queue = queue_of("a", partitions=8)
    folded = fold_result(queue, METER, 1, NodeReplyError(f"PARTITIONS{number}"))
    assert folded is not None
    assert isinstance(folded.error, WriteBehindDamagedError)
    assert queue.partitions == 8
