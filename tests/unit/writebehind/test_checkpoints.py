"""A queue and its checkpoint: which of them came back with an older state."""

from __future__ import annotations

import pytest

from cachebackend.errors import WriteBehindStoppedError
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol.queue.sealing import Sealed
from cachebackend.writebehind.checkpoints import Mismatch, Position, mismatch_of, require_match

CHECKPOINT = WriteBehindCheckpoint(label="shop.meter", partition=3, batch=5, seal="ab")


@pytest.mark.parametrize(
    ("open_batch", "done", "seal", "mismatch"),
    [
        (6, 5, "ab", None),
        (7, 4, "ab", None),
        (7, 6, "ab", Mismatch.DATABASE_IS_OLDER),
        (5, 4, "ab", Mismatch.QUEUE_IS_OLDER),
        (7, 5, "cd", Mismatch.QUEUE_IS_OLDER),
        (7, 5, "", Mismatch.QUEUE_IS_OLDER),
    ],
)
def test_numbers_and_seal_must_agree(
    open_batch: int, done: int, seal: str, mismatch: Mismatch | None
) -> None:
    """A queue that came back older reaches the same numbers again, but not the same seal."""
    assert mismatch_of(CHECKPOINT, open_batch, done, {5: seal}) is mismatch


def test_a_new_checkpoint_agrees_with_any_seal() -> None:
    """Nothing was drained yet."""
    new = WriteBehindCheckpoint(label="shop.meter", partition=3)
    assert mismatch_of(new, 1, 0, {}) is None
    assert mismatch_of(new, 9, 0, {1: "ab"}) is None


@pytest.mark.parametrize(
    ("open_batch", "done", "seals", "mismatch"),
    [
        (9, 5, {5: "ab", 7: "cd"}, None),
        (9, 5, {5: "ab", 6: "ef"}, None),
        (8, 5, {5: "ab", 7: "cd"}, Mismatch.QUEUE_IS_OLDER),
        (9, 5, {5: "ab", 7: "ef"}, Mismatch.QUEUE_IS_OLDER),
        (9, 5, {5: "ab", 7: ""}, Mismatch.QUEUE_IS_OLDER),
    ],
)
def test_a_queue_must_still_have_what_was_sampled(
    open_batch: int, done: int, seals: dict[int, str], mismatch: Mismatch | None
) -> None:
    """The open batch, and the seal of a batch that is not drained yet."""
    position = Position(5, "ab", False, 9, 7, "cd")
    assert mismatch_of(position, open_batch, done, seals) is mismatch


def test_a_sample_that_the_checkpoint_has_passed_does_not_count() -> None:
    """Its batch is drained, and its seal may be deleted."""
    assert mismatch_of(Position(5, "ab", False, 6, 4, "cd"), 6, 5, {5: "ab"}) is None


def test_a_position_is_parsed_from_the_text_of_its_columns() -> None:
    """In the order of its attributes."""
    assert Position.parse(["5", "ab", "t", "9", "7", ""]) == Position(5, "ab", True, 9, 7, "")


def test_a_mismatch_stops_the_partition_and_names_the_way_out() -> None:
    """With the numbers of both."""
    require_match(CHECKPOINT, Sealed(7, 5, 6, "ab", "cd", {}))
    with pytest.raises(WriteBehindStoppedError, match=r"shop.meter:3 .*writebehind repair") as raised:
        require_match(CHECKPOINT, Sealed(4, 3, 3, "ab", "cd", {}))
    assert Mismatch.QUEUE_IS_OLDER in str(raised.value)
