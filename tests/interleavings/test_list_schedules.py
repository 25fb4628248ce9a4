"""No schedule of readers and writers of lists serves a list older than an acknowledged write."""

from __future__ import annotations

import os

import pytest

from cachebackend.node import Node
from tests.interleavings.list_actors import (
    CrashingListWriter,
    ListReader,
    ListReaderOfTwo,
    ListRelay,
    ListWriter,
    OtherListReader,
    PairReader,
    ScatteringListReader,
    ScatteringListWriter,
)
from tests.interleavings.list_rows import (
    RowListReader,
    RowListReaderBeside,
    RowListReaderOfTwo,
    RowListScenario,
)
from tests.interleavings.lists import ListScenario
from tests.interleavings.search import explore, explore_all

EVICT = (("evict_list", 1), ("evict_shard", 1), ("evict_tag", 1))
SHARD, TAG = (("evict_shard", 1),), (("evict_tag", 1),)
FAILS, FAILS_APART = (("fail0", 1),), (("fail1", 1),)

SCENARIOS = {
    "a reader, two writers": ListScenario((ListReader, ListWriter, ListWriter)),
    "two readers, a writer, nothing cached": ListScenario(
        (ListReader, ListReader, ListWriter), is_cached=False
    ),
    "two readers, a writer, a shard is evicted": ListScenario(
        (ListReader, ListReader, ListWriter), (), SHARD
    ),
    "a reader of two, a writer that does not know the shapes, evictions": ListScenario(
        (ListReaderOfTwo, ListWriter), (), SHARD + TAG, knows_shapes=False
    ),
    "a reader of two, a writer, a shard that loses a shape": ListScenario(
        (ListReaderOfTwo, ListWriter), (), (("lose_shape", 1),)
    ),
    "a reader of a list of two shapes, a writer, a tag is evicted": ListScenario(
        (PairReader, ListWriter), (), TAG
    ),
    "two lists in two shards, a writer": ListScenario((OtherListReader, ListReader, ListWriter), shards=2),
    "a reader, a writer that may crash, the relay": ListScenario((ListReader, CrashingListWriter, ListRelay)),
    "a tag on another node: scatters in any order, a shard is evicted": ListScenario(
        (ScatteringListReader, ScatteringListWriter), (), SHARD, is_tag_apart=True
    ),
    "shards on another node: scatters in any order, a tag is evicted": ListScenario(
        (ScatteringListReader, ScatteringListWriter), (), TAG, is_shard_apart=True, shards=2
    ),
    "a node that fails: a reader of two, a writer": ListScenario((ListReaderOfTwo, ListWriter), (), FAILS),
    "a node that fails: a reader of two, a writer, a gutter": ListScenario(
        (ListReaderOfTwo, ListWriter), (), FAILS, has_gutter=True
    ),
    "the node of the tag fails: a reader of two, a writer": ListScenario(
        (ListReaderOfTwo, ListWriter), (), FAILS_APART, is_tag_apart=True
    ),
    "the node of the shards fails: a reader of two, a writer": ListScenario(
        (ListReaderOfTwo, ListWriter), (), FAILS_APART, is_shard_apart=True
    ),
    "the node of the list fails: a reader of two, a writer": ListScenario(
        (ListReaderOfTwo, ListWriter), (), FAILS, is_tag_apart=True, is_shard_apart=True
    ),
    "a list of rows: a reader, a writer": RowListScenario((RowListReader, ListWriter)),
    "a list of rows: a reader that reads all at once, a writer": RowListScenario(
        (RowListReaderBeside, ListWriter)
    ),
    "a list of rows: a reader of two, a writer, the row is evicted": RowListScenario(
        (RowListReaderOfTwo, ListWriter), (), (("evict_row", 1),)
    ),
    **{
        f"a ring that changes: {' and '.join(deploys)}": ListScenario(
            (ListReaderOfTwo, ListWriter), deploys=deploys, relay=deploys[1]
        )
        for deploys in (
            ("joining", "leaving"),
            ("leaving", "joining"),
            ("leaving", "leaving"),
            ("leaving", "cold"),
        )
    },
}
#: The same with more actors or accidents. They take minutes, so they run only with ``EXPLORE=all``.
LARGER = {
    "two readers, a writer, a shard is evicted": ListScenario(
        (ListReader, ListReader, ListWriter), (), SHARD
    ),
    "a reader of two, a writer, evictions": ListScenario((ListReaderOfTwo, ListWriter), (), EVICT),
    "two readers, a writer, evictions": ListScenario(
        (ListReader, ListReader, ListWriter), (), EVICT, knows_shapes=False
    ),
    "two readers, two writers": ListScenario((ListReader, ListReader, ListWriter, ListWriter)),
    "a ring that changes: two readers": ListScenario(
        (ListReader, ListReader, ListWriter), deploys=("joining", "leaving", "leaving"), relay="leaving"
    ),
    "nodes that fail: a reader of two, a writer": ListScenario(
        (ListReaderOfTwo, ListWriter), (), FAILS + FAILS_APART, is_tag_apart=True, is_shard_apart=True
    ),
    "a list of rows: a reader, two writers": RowListScenario((RowListReader, ListWriter, ListWriter)),
    "a list of rows: a reader that reads all at once, two writers": RowListScenario(
        (RowListReaderBeside, ListWriter, ListWriter)
    ),
    "a list of rows: two readers, a writer": RowListScenario((RowListReader, RowListReader, ListWriter)),
    "a list of rows: a reader, a writer that may crash, the relay": RowListScenario(
        (RowListReader, CrashingListWriter, ListRelay)
    ),
}
if os.environ.get("EXPLORE") == "all":
    SCENARIOS |= LARGER
#: What a node that loads an older file costs: docs/production.md says that it must come up empty.
RESTORED = ListScenario((ListReaderOfTwo, ListWriter), (), (*SHARD, ("restore_shard", 1)))


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_schedule_serves_a_stale_list(
    node: Node, spare: Node, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In every order of moves; the counts prove that schedules were explored."""
    with capsys.disabled():
        explore_all((node, spare), name, SCENARIOS[name])


def test_a_shard_that_comes_back_from_an_older_file_can_make_an_old_list_valid(
    node: Node, spare: Node
) -> None:
    """As an older file brings back old rows: it undoes what a node has confirmed. So nodes come up empty."""
    assert explore((node, spare), RESTORED, stop_at_first=True).wrong
