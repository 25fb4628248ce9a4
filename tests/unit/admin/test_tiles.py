"""The tiles at the top of the page."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cachebackend.admin.tiles import UNKNOWN, Tile, tiles
from cachebackend.monitoring import (
    AliasFigures,
    Fault,
    OutboxFigures,
    QueueFigures,
    WorkerFigures,
    formatting,
)
from cachebackend.monitoring.parked import ParkedFigures
from cachebackend.monitoring.queue_nodes import QueueNodeFigures
from cachebackend.monitoring.queues import Totals
from cachebackend.monitoring.runbook import FaultKind

NOW = 1_700_000_000.0
SEEN = WorkerFigures({"relay": NOW})
EMPTY = OutboxFigures(0.0, 0)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is NOW."""
    monkeypatch.setattr(formatting, "time", SimpleNamespace(time=lambda: NOW))


def by_key(worker: WorkerFigures, outbox: OutboxFigures, queues: QueueFigures) -> dict[str, Tile]:
    return {tile.key: tile for tile in tiles([], worker, outbox, queues)}


def test_figures_without_a_fault_are_well() -> None:
    """Each tile has its value; without write-behind there is no tile for it."""
    tiles = by_key(SEEN, OutboxFigures(3.0, 1200), QueueFigures())
    assert {key: (tile.value, tile.note, tile.is_well) for key, tile in tiles.items()} == {
        "worker": ("just now", "", True),
        "pending": ("1,200", "the oldest for 3.0 s", True),
    }


def test_a_figure_without_an_answer_is_unknown_and_not_well() -> None:
    """An unknown figure is never shown as zero."""
    tiles = by_key(WorkerFigures(), OutboxFigures(), QueueFigures(is_on=True))
    assert {(tile.value, tile.is_well) for tile in tiles.values()} == {(UNKNOWN, False)}
    assert set(tiles) == {"worker", "pending", "waiting"}
    assert {tile.css_class for tile in tiles.values()} == {"unknown"}


def test_reads_that_are_not_known_are_not_zero() -> None:
    """No minute could be read: neither the ratio nor the rate is shown."""
    figures = AliasFigures("default", [], {1: None}, None, None, 240.0, [])
    shown = {tile.key: tile.value for tile in tiles([figures], SEEN, EMPTY, QueueFigures())}
    assert (shown["hits-default"], shown["gets-default"]) == (UNKNOWN, UNKNOWN)


@pytest.mark.parametrize(
    ("fault", "css_class"),
    [
        (Fault(FaultKind.NODE_REFUSES_WRITES, "…"), "bad"),
        (Fault(FaultKind.SLOTS_UNSERVED, "…"), "bad"),
        (Fault(FaultKind.EVICTIONS, "…", is_note=True), "good"),
    ],
)
def test_a_fault_of_nodes_that_answer_turns_their_tile_red(fault: Fault, css_class: str) -> None:
    """The verdict above it names the fault; a green tile would contradict it."""
    figures = AliasFigures("default", [], {1: None}, None, None, 240.0, [fault])
    shown = {tile.key: tile.css_class for tile in tiles([figures], SEEN, EMPTY, QueueFigures())}
    assert shown["nodes-default"] == css_class


@pytest.mark.parametrize("kind", ["queue-node-down", "writes-wait", "writes-parked"])
def test_every_fault_of_write_behind_turns_its_tile_red(kind: str) -> None:
    """A queue node, writes that wait and writes that are parked share one tile."""
    queues = QueueFigures(
        is_on=True,
        nodes=[QueueNodeFigures("queue-a")],
        totals=Totals(waiting=7, oldest_seconds=1.5),
        parked_writes=ParkedFigures(kept=2),
        is_database_up=True,
        faults=[Fault(FaultKind(kind), "…")],
    )
    tile = by_key(SEEN, EMPTY, queues)["waiting"]
    assert (tile.value, tile.note, tile.is_well) == ("7", "the oldest for 1.5 s; 2 parked", False)


def test_a_figure_that_is_unknown_because_of_a_fault_is_not_dimmed() -> None:
    """The part that fails must not be the least visible one; the tile names the queue node."""
    queues = QueueFigures(
        is_on=True,
        nodes=[QueueNodeFigures("queue-a", "refused")],
        faults=[Fault(FaultKind.QUEUE_NODE_DOWN, "…")],
    )
    tile = by_key(SEEN, EMPTY, queues)["waiting"]
    assert (tile.value, tile.note, tile.css_class) == (UNKNOWN, "down: queue-a", "bad")


def test_a_tile_with_a_note_is_well() -> None:
    """A note turns nothing red."""
    queues = QueueFigures(
        is_on=True,
        nodes=[QueueNodeFigures("queue-a")],
        faults=[Fault(FaultKind.WRITES_REFUSED, "…", is_note=True)],
    )
    assert by_key(SEEN, EMPTY, queues)["waiting"].css_class == "good"


def test_a_worker_that_never_ran_is_said_to_be_never_seen() -> None:
    """The nodes answered, and no task was ever recorded."""
    assert by_key(WorkerFigures({}), EMPTY, QueueFigures())["worker"].value == "never"
