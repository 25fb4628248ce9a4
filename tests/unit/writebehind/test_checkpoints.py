"""A queue and its checkpoint: which of them came back with an older state."""

from __future__ import annotations

import pytest

from cachebackend.errors import WriteBehindStoppedError
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol.queue.seal import Sealed
from cachebackend.writebehind.checkpoints import Mismatch, mismatch_of, require_match

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
    assert mismatch_of(CHECKPOINT, open_batch, done, seal) is mismatch


def test_a_new_checkpoint_agrees_with_any_seal() -> None:
    """Nothing was drained yet."""
    new = WriteBehindCheckpoint(label="shop.meter", partition=3)
    assert mismatch_of(new, 1, 0, "") is None
    assert mismatch_of(new, 9, 0, "ab") is None


def test_a_mismatch_stops_the_partition_and_names_the_way_out() -> None:
    """With the numbers of both."""
    require_match(CHECKPOINT, Sealed(7, 5, 6, "ab", "cd", {}))
    with pytest.raises(WriteBehindStoppedError, match=r"shop.meter:3 .*writebehind repair") as raised:
        require_match(CHECKPOINT, Sealed(4, 3, 3, "ab", "cd", {}))
    assert Mismatch.QUEUE_IS_OLDER in str(raised.value)
