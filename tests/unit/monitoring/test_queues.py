"""The figures of write-behind."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from cachebackend.counters import DrainCounts
from cachebackend.monitoring import QueueFigures, queues
from cachebackend.monitoring.faults import database_scope, max_tick_age, max_waiting_age, node_scope
from cachebackend.monitoring.queue_nodes import QueueNodeFigures
from cachebackend.monitoring.queues import Parked, Totals, queue_figures
from cachebackend.monitoring.reasons import Kind, Reason
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.monitoring.window import MINUTES
from cachebackend.options import WriteBehindOptions
from cachebackend.protocol import Partition
from cachebackend.writebehind import PartitionStatus

ONE, TWO = Partition("shop.meter", 0), Partition("shop.meter", 1)


def test_totals_are_sums_over_the_nodes_of_a_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the queue nodes change, a partition has a queue on the old and on the new one."""
    monkeypatch.setattr(queues, "_parked", lambda: (Parked(3, 40.0, 1, 50.0), {}, ["two"]))
    totals = Totals.of(
        [
            PartitionStatus(ONE, "a", fields=2, oldest_seconds=1.0, rows=5, parked=3),
            PartitionStatus(ONE, "b", fields=1, oldest_seconds=4.0, rows=1, parked=3),
            PartitionStatus(TWO, "b", missing=2, parked=1),
        ]
    )
    assert totals == Totals(3, 4.0, 6, 2, 4, 40.0, retried=1, retried_since=50.0, parked_in=["two"])
    assert Totals.of([]) == Totals(
        parked=4, parked_since=40.0, retried=1, retried_since=50.0, parked_in=["two"]
    )


@pytest.mark.parametrize("queue", [True, False])
@pytest.mark.parametrize("database", [True, False])
def test_figures_of_a_server_that_does_not_answer_are_unknown(queue: bool, database: bool) -> None:
    """A zero would look healthy."""
    figures = QueueFigures(
        is_on=True,
        nodes=[QueueNodeFigures("queue-a", "" if queue else "it is not reachable")],
        totals=Totals(waiting=2, oldest_seconds=1.5, rows=9, parked=1, bytes=70),
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


@pytest.mark.parametrize(
    ("retried", "age", "kinds"),
    [
        (0, 0.0, ["writes-parked"]),
        (2, 4.0, []),
        (2, 11.0, ["writes-retried"]),
        (1, 11.0, ["writes-parked", "writes-retried"]),
    ],
)
def test_writes_that_are_tried_again_are_a_fault_of_their_own(
    retried: int, age: float, kinds: list[str]
) -> None:
    """After five seconds: rows that refer to each other are in a wrong order for a moment."""
    since = time.time() - age if retried else None
    totals = Totals(parked=2, parked_since=1.0, retried=retried, retried_since=since)
    faults = queues._parked_faults(QueueFigures(is_on=True, totals=totals, is_database_up=True))
    assert [str(fault.kind) for fault in faults] == kinds


def test_parked_writes_are_a_fault_while_another_database_is_away() -> None:
    """How many there are in all is not known; those that are known are not hidden."""
    totals = Totals(parked=1, parked_since=9.0, parked_in=["default"])
    figures = QueueFigures(is_on=True, totals=totals, is_database_up=False)
    assert figures.parked is None
    [fault] = queues._parked_faults(figures)
    assert (fault.kind, fault.since) == (FaultKind.WRITES_PARKED, 9.0)
    assert fault.scope == database_scope("default")


def test_each_database_that_does_not_answer_is_one_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its checkpoints, its parked writes or both cannot be read; another one hides none of them."""
    monkeypatch.setattr(queues, "databases_of", lambda partitions: dict.fromkeys(partitions, "default"))
    status = PartitionStatus(ONE, "a", is_database_seen=False, error="the database 'default' is locked")
    totals = Totals(database_faults={"database 'default'": "parked", "database 'two'": "it is away"})
    faults = [*queues._database_faults([status, replace(status, partition=TWO)], totals)]
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


def test_a_parked_write_is_shown_with_its_error_and_in_the_singular() -> None:
    """The cause is in the fault, without the row's key and without a value that the error quotes."""
    error = queues._shortened('invalid input syntax for type integer: "secret"\nDETAIL: Failing row (secret)')
    totals = Totals(parked=1, parked_since=1.0, parked_error=f"demo.article: {error}")
    [fault] = queues._parked_faults(QueueFigures(is_on=True, totals=totals, is_database_up=True))
    assert fault.message == (
        "1 write is parked because Postgres refused it: demo.article: invalid input syntax for type integer."
    )
