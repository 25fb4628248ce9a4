"""Reading batches of a queue."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.errors import NodeUnavailableError, WriteBehindDamagedError
from cachebackend.protocol.queue import pending as pending_module
from cachebackend.protocol.queue.partition import Partition
from cachebackend.protocol.queue.pending import Pending, contents, pending, renumber
from cachebackend.protocol.queue.queue_state import QueueState
from tests.unit.protocol.stepping import DOWN, queue_of, step

METER = Partition("shop.meter", 0)
KEYS = queue_of("a")
NUMBERS = [b"ab", b"3", b"1"]


def test_a_batch_is_read_page_by_page() -> None:
    """Until the cursor is 0."""
    fields, requests = step(
        contents(queue_of("a"), 0, METER, 2), [[b"9", [b"f", b"1"]]], [[b"0", [b"g", b"2"]]]
    )
    assert fields == {b"f": b"1", b"g": b"2"}
    assert [command[2] for [(_, command)] in requests] == [b"0", b"9"]
    with pytest.raises(NodeUnavailableError):
        step(contents(queue_of("a"), 0, METER, 2), [DOWN])


def test_fields_of_all_batches_are_read_at_one_instant() -> None:
    """In one script; a field that a batch lacks is left out of it."""
    reply = [NUMBERS, [2, [b"5", None], b""], [3, [None, b"6"], b"\0f\0i\0"]]
    result, requests = step(pending(queue_of("a"), 0, METER, [b"f", b"g"]), [reply])
    assert result == Pending("ab", 1, [(2, {b"f": b"5"}, {}), (3, {b"g": b"6"}, {"f": "i"})])
    assert len(requests) == 1


def test_a_node_without_a_queue_has_nothing_pending() -> None:
    """A node with a damaged queue raises an error."""
    assert step(pending(queue_of("a"), 0, METER, [b"f"]), [[]])[0] is None
    with pytest.raises(WriteBehindDamagedError):
        step(pending(queue_of("a"), 0, METER, [b"f"]), [[[b"?", b"3", b"1"]]])


def test_the_script_is_called_again_if_it_lacked_a_batch() -> None:
    """The first call returns only the numbers; the second call names every batch that may exist."""
    queue = queue_of("a")
    result, requests = step(pending(queue, 0, METER, [b"f"]), [[NUMBERS]], [[NUMBERS, [2, [b"5"], b""]]])
    assert result == Pending("ab", 1, [(2, {b"f": b"5"}, {})])
    assert [command[1:-2] for [(_, command)] in requests] == [
        (KEYS.meta(METER), KEYS.batch(METER, 1), KEYS.batch(METER, 2)),
        (KEYS.meta(METER), KEYS.batch(METER, 2), KEYS.batch(METER, 3), KEYS.batch(METER, 4)),
    ]
    assert queue.open_batches[0, METER.name] == 3


def test_many_fields_are_read_by_several_calls_of_one_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a batch was sealed or deleted between two calls, all calls are repeated."""
    monkeypatch.setattr(pending_module, "PENDING_FIELDS", 1)
    first: list[Any] = [[NUMBERS, [2, [b"5"], b""]], [[b"ab", b"4", b"1"], [2, [b"6"], b""]]]
    second: list[Any] = [[NUMBERS, [2, [b"5"], b""]], [NUMBERS, [2, [b"6"], b"\0g\0i\0"]]]
    result, _ = step(pending(queue_of("a"), 0, METER, [b"f", b"g"]), first, second)
    assert result == Pending("ab", 1, [(2, {b"f": b"5", b"g": b"6"}, {"g": "i"})])


@pytest.mark.parametrize(("keep", "word"), [(True, "keep"), (False, "drop")])
def test_batches_are_renumbered_after_the_last_drained_one(keep: bool, word: str) -> None:
    """The number of the open batch that this process remembered is forgotten."""
    queue = queue_of("a")
    queue.open_batches[0, METER.name] = 3
    state = QueueState(0, "ab", 3, 1, 5, None, {})
    opened, [[(_, command)]] = step(renumber(queue, state, METER, (9, "aa"), [2, 3], keep=keep), [12])
    assert opened == 12
    assert command[1:7] == (
        KEYS.meta(METER),
        b"wb:dirty",
        *(KEYS.batch(METER, each) for each in (2, 3, 10, 11)),
    )
    assert command[7:12] == (9, METER.name, word, 3, "aa")
    assert queue.open_batches == {}
