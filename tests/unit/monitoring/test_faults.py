"""Faults, and the ages above which a figure is one."""

from __future__ import annotations

import time

import pytest

from cachebackend.monitoring.faults import Fault, by_cause, max_tick_age, max_waiting_age
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.options import WriteBehindOptions


def test_a_fault_says_since_when_if_that_is_known() -> None:
    """As a time of day and an age."""
    assert Fault(FaultKind.NODE_DOWN, "Node a does not answer.").since_text == ""
    assert " ago)" in Fault(FaultKind.NODE_DOWN, "Node a does not answer.", time.time() - 90).since_text


@pytest.mark.parametrize(
    ("flush_interval", "tick", "waiting"), [(0.1, 10.0, 10.0), (1.0, 10.0, 10.0), (60.0, 300.0, 600.0)]
)
def test_the_limits_follow_the_flush_interval(flush_interval: float, tick: float, waiting: float) -> None:
    """A project that drains once a minute has no fault after ten seconds."""
    options = WriteBehindOptions.read({"flush_interval": flush_interval})
    assert (max_tick_age(options), max_waiting_age(options)) == (tick, waiting)


def test_one_fault_for_each_cause_with_its_consequences_below_it() -> None:
    """A missing worker explains late writes, and pending deletes also while a node is down."""
    faults = [
        Fault(FaultKind.DELETES_PENDING, "deletes"),
        Fault(FaultKind.WRITES_WAIT, "writes"),
        Fault(FaultKind.WRITES_PARKED, "parked"),
        Fault(FaultKind.NO_WORKER, "worker"),
        Fault(FaultKind.NODE_DOWN, "node"),
    ]
    found = [(each.message, [below.message for below in each.consequences]) for each in by_cause(faults)]
    assert found == [("node", []), ("worker", ["deletes", "writes"]), ("parked", [])]


def test_without_its_cause_a_consequence_is_a_fault_of_its_own() -> None:
    """It is never hidden."""
    [fault] = by_cause([Fault(FaultKind.DELETES_PENDING, "deletes")])
    assert (fault.message, fault.consequences) == ("deletes", ())


def test_a_database_that_does_not_answer_explains_tasks_that_are_late() -> None:
    """The relay waits for it, though a worker and beat run."""
    faults = [Fault(FaultKind.TASKS_LATE, "tasks"), Fault(FaultKind.DATABASE_DOWN, "database")]
    [fault] = by_cause(faults)
    assert (fault.message, [each.message for each in fault.consequences]) == ("database", ["tasks"])
