"""The figures of write-behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cachebackend.counters import DrainCounts
from cachebackend.monitoring import QueueFigures, queues
from cachebackend.monitoring.faults import database_scope, max_tick_age, max_waiting_age, node_scope
from cachebackend.monitoring.parked import ParkedFigures
from cachebackend.monitoring.queue_nodes import QueueNodeFigures
from cachebackend.monitoring.queues import Totals, queue_figures
from cachebackend.monitoring.reasons import Kind, Reason
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.monitoring.window import MINUTES
from cachebackend.options import WriteBehindOptions
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind import PartitionStatus

ONE, TWO = Partition("shop.meter", 0), Partition("shop.meter", 1)


def test_totals_are_sums_over_the_nodes_of_a_partition() -> None:
    """While the queue nodes change, a partition has a queue on the old and on the new one."""
    totals = Totals.of(
        [
            PartitionStatus(ONE, "a", fields=2, oldest_seconds=1.0, rows=5, parked=3),
            PartitionStatus(ONE, "b", fields=1, oldest_seconds=4.0, rows=1, parked=3),
            PartitionStatus(TWO, "b", missing=2, parked=1),
        ]
    )
    assert totals == Totals(waiting=3, oldest_seconds=4.0, rows=6, missing=2)
    assert Totals.of([]) == Totals()


@pytest.mark.parametrize("queue", [True, False])
@pytest.mark.parametrize("database", [True, False])
def test_figures_of_a_server_that_does_not_answer_are_unknown(queue: bool, database: bool) -> None:
    """A zero would look healthy."""
    figures = QueueFigures(
        is_on=True,
        nodes=[QueueNodeFigures("queue-a", "" if queue else "it is not reachable")],
        totals=Totals(waiting=2, oldest_seconds=1.5, rows=9, bytes=70),
        parked_writes=ParkedFigures(kept=1),
        is_database_up=database,
    )
    assert figures.waiting == (2 if queue else None)
    assert figures.bytes == (70 if queue else None)
    assert figures.oldest_seconds == (1.5 if queue else None)
    assert figures.parked == (1 if database else None)


def test_a_partition_is_listed_with_its_reasons() -> None:
    """One that was never written to is left out; one that lies on two nodes has its reasons twice."""
    written = [PartitionStatus(ONE, "a", fields=1), PartitionStatus(ONE, "b", landed=1)]
    reasons = [Reason(ONE, kind, "", "") for kind in (Kind.SLOW, Kind.PARKED)]
    figures = QueueFigures(
        partitions=[*written, PartitionStatus(TWO, "a")],
        reasons=[*reasons, Reason(TWO, Kind.SLOW, "", "")],
    )
    assert figures.listed_partitions == [(each, reasons) for each in written]


def test_minutes_that_no_node_returned_are_gaps_of_the_chart() -> None:
    """The chart always has all its minutes, also while no queue node answers."""
    figures = QueueFigures(is_on=True)
    assert figures.rows_by_minute == [None] * MINUTES
    assert (figures.rows_per_second, figures.hour, figures.drain_times.count) == (None, None, 0)
    counted = replace(figures, minutes=[None, DrainCounts(rows=4), DrainCounts(rows=2, dropped=1)])
    assert counted.rows_by_minute == [None, 4, 2]
    assert counted.hour == DrainCounts(rows=6, dropped=1)


def test_without_queue_nodes_write_behind_is_off(settings: Any) -> None:
    """There is nothing to ask, and no fault."""
    settings.WRITE_BEHIND = {"nodes": []}
    assert queue_figures() == QueueFigures()


def test_thresholds_follow_the_flush_interval() -> None:
    """A task that runs every minute may have run a minute ago."""
    fast = WriteBehindOptions.read({"flush_interval": 0.5})
    slow = WriteBehindOptions.read({"flush_interval": 60.0})
    assert (max_tick_age(fast), max_waiting_age(fast)) == (10.0, 10.0)
    assert (max_tick_age(slow), max_waiting_age(slow)) == (300.0, 600.0)


def test_each_database_that_does_not_answer_is_one_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its checkpoints, its parked writes or both cannot be read; another one hides none of them."""
    monkeypatch.setattr(queues, "databases_of", lambda partitions: dict.fromkeys(partitions, "default"))
    status = PartitionStatus(ONE, "a", is_database_seen=False, error="the database 'default' is locked")
    parked = ParkedFigures(unanswered={"database 'default'": "parked", "database 'two'": "it is away"})
    faults = [*queues._database_faults([status, replace(status, partition=TWO)], parked)]
    assert [(fault.message, fault.scope) for fault in faults] == [
        ("the database 'default' is locked", database_scope("default")),
        ("it is away", database_scope("two")),
    ]


def test_late_writes_concern_their_queue_nodes_and_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    """So they are a consequence of these only; writes of a model that is gone are late, too."""
    monkeypatch.setattr(queues, "databases_of", lambda partitions: dict.fromkeys(partitions, "default"))
    for kind in (Kind.SLOW, Kind.REMOVED):
        reason = Reason(ONE, kind, "text", "way out")
        figures = QueueFigures(partitions=[PartitionStatus(ONE, "a")], reasons=[reason])
        [fault] = queues._waiting_faults(figures, WriteBehindOptions())
        scope = node_scope("WRITE_BEHIND", "a") | database_scope("default")
        assert (fault.kind, fault.scope) == (FaultKind.WRITES_WAIT, scope)


def test_a_session_that_blocks_several_partitions_is_one_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if more is known of one of them, such as its drain; another session is a fault of its own."""
    monkeypatch.setattr(queues, "databases_of", lambda partitions: dict.fromkeys(partitions, "default"))
    reasons = [
        Reason(ONE, Kind.BLOCKED, "PID 7 holds the lock", "end PID 7"),
        Reason(TWO, Kind.BLOCKED, "PID 7 holds the lock (of a drain)", "end PID 7"),
        Reason(TWO, Kind.BLOCKED, "PID 8 holds rows", "end PID 8"),
    ]
    figures = QueueFigures(partitions=[PartitionStatus(ONE, "a"), PartitionStatus(TWO, "a")], reasons=reasons)
    faults = queues._waiting_faults(figures, WriteBehindOptions())
    assert [fault.message for fault in faults] == ["PID 7 holds the lock.", "PID 8 holds rows."]
