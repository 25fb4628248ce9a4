"""Reading batches of a queue."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.errors import NodeUnavailableError, WriteBehindDamagedError
from cachebackend.protocol.queue import pending_writes as pending_module
from cachebackend.protocol.queue.partition import Partition
from cachebackend.protocol.queue.pending_writes import Pending, batch_sizes, contents, pending
from tests.unit.protocol.stepping import DOWN, queue_of, step

METER = Partition("shop.meter", 0)
KEYS = queue_of("a")
NUMBERS = [b"ab", b"3", b"1", b"aa"]
SEALS = {1: "aa", 2: "bb", 3: ""}


def test_a_batch_is_read_page_by_page() -> None:
    """Until the cursor is 0."""
    fields, requests = step(
        contents(queue_of("a"), 0, METER, 2), [[b"9", [b"f", b"1"]]], [[b"0", [b"g", b"2"]]]
    )
    assert fields == {b"f": b"1", b"g": b"2"}
    assert [command[2] for [(_, command)] in requests] == [b"0", b"9"]
    with pytest.raises(NodeUnavailableError):
        step(contents(queue_of("a"), 0, METER, 2), [DOWN])


def test_large_values_are_read_in_small_pages() -> None:
    """A reply has about a megabyte, because the node's output buffers count as its memory."""
    large, small = b"v" * 500_000, b"v"
    pages: list[list[Any]] = [[[b"9", [b"f", large]]], [[b"8", [b"g", small]]], [[b"0", []]]]
    _, requests = step(contents(queue_of("a"), 0, METER, 2), *pages)
    assert [command[-1] for [(_, command)] in requests] == [b"10", b"2", b"20"]


def test_fields_of_all_batches_are_read_at_one_instant() -> None:
    """In one script, and then the number of partitions; a field that a batch lacks is left out of it."""
    reply = [NUMBERS, [2, b"bb", [b"5", None], b""], [3, b"", [None, b"6"], b"\0f\0i\0"]]
    result, requests = step(pending(queue_of("a"), 0, METER, [b"f", b"g"]), [reply, b"8"])
    assert result == (
        Pending("ab", 3, 1, SEALS, [("ab", 2, {b"f": b"5"}, {}), ("ab", 3, {b"g": b"6"}, {"f": "i"})]),
        8,
    )
    [[(_, script), (_, count)]] = requests
    assert (script[0], count) == ("pending", (b"GET", KEYS.count_keys[0]))


def test_a_node_without_a_queue_has_nothing_pending() -> None:
    """A node with a damaged queue raises an error."""
    assert step(pending(queue_of("a"), 0, METER, [b"f"]), [[], None])[0] == (None, None)
    for replies in ([[[b"?", b"3", b"1", b""]], b"8"], [[], b"?"]):
        with pytest.raises(WriteBehindDamagedError):
            step(pending(queue_of("a"), 0, METER, [b"f"]), replies)


def test_the_script_is_called_again_if_it_lacked_a_batch() -> None:
    """The first call returns only the numbers; the second call names every batch that may exist."""
    queue = queue_of("a")
    replies: list[Any] = [[NUMBERS], b"8"], [[NUMBERS, [2, b"bb", [b"5"], b""]], b"8"]
    (result, _), requests = step(pending(queue, 0, METER, [b"f"]), *replies)
    assert result == Pending("ab", 3, 1, {1: "aa", 2: "bb"}, [("ab", 2, {b"f": b"5"}, {})])
    assert [command[1:-2] for [(_, command), _] in requests] == [
        (KEYS.meta(METER), KEYS.batch(METER, 1), KEYS.batch(METER, 2)),
        (KEYS.meta(METER), KEYS.batch(METER, 2), KEYS.batch(METER, 3), KEYS.batch(METER, 4)),
    ]
    assert queue.open_batches[0, METER.name] == 3


def test_many_fields_are_read_by_several_calls_of_one_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a batch was sealed or deleted between two calls, all calls are repeated."""
    monkeypatch.setattr(pending_module, "PENDING_FIELDS", 1)
    other = [b"ab", b"4", b"1", b"aa"]
    first: list[Any] = [[NUMBERS, [2, b"bb", [b"5"], b""]], [other, [2, b"bb", [b"6"], b""]], b"8"]
    codes = b"\0g\0i\0"
    second: list[Any] = [[NUMBERS, [2, b"bb", [b"5"], codes]], [NUMBERS, [2, b"bb", [b"6"], codes]], b"8"]
    (result, _), _ = step(pending(queue_of("a"), 0, METER, [b"f", b"g"]), first, second)
    batches = [("ab", 2, {b"f": b"5", b"g": b"6"}, {"g": "i"})]
    assert result == Pending("ab", 3, 1, {1: "aa", 2: "bb"}, batches)


def test_sizes_of_batches_are_read_in_one_round_trip() -> None:
    """A batch that does not exist has 0 fields; without batches nothing is sent."""
    sizes, [requests] = step(batch_sizes(queue_of("a"), 0, METER, range(2, 4)), [5, 0])
    assert sizes == {2: 5, 3: 0}
    assert requests == [(0, (b"HLEN", KEYS.batch(METER, 2))), (0, (b"HLEN", KEYS.batch(METER, 3)))]
    assert step(batch_sizes(queue_of("a"), 0, METER, [])) == ({}, [])
