"""No schedule serves a stale value while a slot of a cluster moves between two servers."""

from __future__ import annotations

import os

import pytest

from cachebackend.node import Node
from tests.interleavings.moving import (
    LeapingMover,
    Mover,
    MovingReader,
    MovingReaderOfTwo,
    MovingScenario,
    MovingStrictWriter,
    MovingWriter,
    PlainMovingWriter,
    Returner,
)
from tests.interleavings.search import explore_all
from tests.interleavings.test_schedules import LAPSE, LOSE, OLD, TAGGED
from tests.interleavings.world import TAG

SCENARIOS = {
    "a reader, a writer": MovingScenario((MovingReader, MovingWriter, Mover), OLD),
    "a reader, a writer, a server that gets its first slot": MovingScenario(
        (MovingReader, MovingWriter, Mover), OLD, is_new=True
    ),
    "a reader of two, a slot that returns": MovingScenario((MovingReaderOfTwo, Returner), OLD),
    "a writer, a slot that returns": MovingScenario((MovingWriter, Returner), OLD),
    "strict: a reader, a writer": MovingScenario((MovingReader, MovingStrictWriter, Mover), OLD),
    "tags: a reader, a writer, the slot of the tag moves": MovingScenario(
        (MovingReader, MovingWriter, Mover), fill_options=TAGGED, by_tag=True, moving=TAG
    ),
    "a delete that is missed: one process: a reader, a writer, a slot that leaps": MovingScenario(
        (MovingReader, PlainMovingWriter, LeapingMover), OLD, LOSE, is_one_process=True
    ),
}
#: Longer ones, which run only with ``EXPLORE=all``.
LARGER = {
    "a reader, a writer, nothing cached": MovingScenario((MovingReader, MovingWriter, Mover)),
    "tags: a reader, a writer, the slot of the value moves": MovingScenario(
        (MovingReader, MovingWriter, Mover), fill_options=TAGGED, by_tag=True
    ),
    "a delete that is missed: one process: a reader, a writer": MovingScenario(
        (MovingReader, PlainMovingWriter, Mover), OLD, LOSE, is_one_process=True
    ),
    "two readers, a writer": MovingScenario((MovingReader, MovingReader, MovingWriter, Mover), OLD),
    "a reader, two writers": MovingScenario((MovingReader, MovingWriter, MovingWriter, Mover), OLD),
    "a reader, a writer, a slot that returns": MovingScenario((MovingReader, MovingWriter, Returner), OLD),
    "a reader, a writer, a lease that lapses": MovingScenario((MovingReader, MovingWriter, Mover), (), LAPSE),
}
if os.environ.get("EXPLORE") == "all":
    SCENARIOS |= LARGER


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_schedule_stores_or_serves_a_stale_value_while_a_slot_moves(
    node: Node, spare: Node, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor does a command fail, or a process ask a server again that has redirected it with MOVED."""
    for each in (node, spare):
        each.call((b"FLUSHDB",))
    with capsys.disabled():
        explore_all((node, spare), name, SCENARIOS[name])
