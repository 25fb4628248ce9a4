"""Faults, and the ages above which a figure is one."""

from __future__ import annotations

import time

import pytest

from cachebackend.monitoring.faults import (
    Fault,
    alias_scope,
    by_cause,
    database_scope,
    max_tick_age,
    max_waiting_age,
    node_scope,
)
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


@pytest.mark.parametrize(
    ("cause", "other", "is_explained"),
    [
        (
            Fault(FaultKind.NODE_DOWN, "", scope=node_scope("default", "a")),
            Fault(FaultKind.COUNTS_UNREADABLE, "", scope=alias_scope("default")),
            True,
        ),
        (
            Fault(FaultKind.NODE_DOWN, "", scope=node_scope("default", "a")),
            Fault(FaultKind.COUNTS_UNREADABLE, "", scope=alias_scope("second")),
            False,
        ),
        (
            Fault(FaultKind.NODE_DOWN, "", scope=node_scope("default", "a")),
            Fault(FaultKind.NODE_PARTLY_REACHED, "", scope=node_scope("default", "b")),
            False,
        ),
        (
            Fault(FaultKind.QUEUE_NODE_DOWN, "", scope=node_scope("WRITE_BEHIND", "host:1", "q0", "q1")),
            Fault(
                FaultKind.WRITES_WAIT, "", scope=node_scope("WRITE_BEHIND", "q1") | database_scope("default")
            ),
            True,
        ),
        (
            Fault(FaultKind.DATABASE_DOWN, "", scope=database_scope("other")),
            Fault(FaultKind.WRITES_WAIT, "", scope=database_scope("default")),
            False,
        ),
        (
            Fault(FaultKind.DATABASE_DOWN, "", scope=database_scope("other")),
            Fault(FaultKind.WRITES_WAIT, "", scope=database_scope("default", "other")),
            False,
        ),
        (
            Fault(FaultKind.NODE_DOWN, "", scope=node_scope("default", "a")),
            Fault(FaultKind.DELETES_PENDING, "", scope=database_scope("default")),
            True,
        ),
        (
            Fault(FaultKind.NO_WORKER, ""),
            Fault(FaultKind.WRITES_WAIT, "", scope=database_scope("default")),
            True,
        ),
        (
            Fault(FaultKind.SLOTS_UNSERVED, "", scope=alias_scope("default")),
            Fault(FaultKind.FIGURES_UNREADABLE, "", scope=alias_scope("second")),
            False,
        ),
        (
            Fault(FaultKind.SLOTS_UNSERVED, "", scope=alias_scope("default")),
            Fault(FaultKind.WRITES_DROPPED, "", scope=alias_scope("WRITE_BEHIND")),
            False,
        ),
        (
            Fault(FaultKind.SLOTS_UNSERVED, "", scope=node_scope("WRITE_BEHIND", "q0")),
            Fault(FaultKind.WRITES_WAIT, "", scope=node_scope("WRITE_BEHIND", "q1")),
            False,
        ),
        (
            Fault(FaultKind.SLOTS_UNSERVED, "", scope=node_scope("WRITE_BEHIND", "q0")),
            Fault(FaultKind.WRITES_DROPPED, "", scope=alias_scope("WRITE_BEHIND")),
            True,
        ),
    ],
)
def test_a_fault_explains_only_what_concerns_the_same(cause: Fault, other: Fault, is_explained: bool) -> None:
    """A node or a database that does not answer hides nothing of another one."""
    assert len(by_cause([cause, other])) == (1 if is_explained else 2)


def test_without_its_cause_a_consequence_is_a_fault_of_its_own() -> None:
    """It is never hidden."""
    [fault] = by_cause([Fault(FaultKind.DELETES_PENDING, "deletes")])
    assert (fault.message, fault.consequences) == ("deletes", ())


@pytest.mark.parametrize("cause", [FaultKind.NODE_PARTLY_REACHED, FaultKind.NODE_REPLAYING])
def test_pending_deletes_wait_for_processes_that_do_not_use_a_node_yet(cause: FaultKind) -> None:
    """One of them may run the relay: after an outage it tries the node again a few seconds later."""
    faults = [
        Fault(FaultKind.DELETES_PENDING, "deletes"),
        Fault(cause, "node", scope=node_scope("default", "a")),
    ]
    [fault] = by_cause(faults)
    assert (fault.message, [each.message for each in fault.consequences]) == ("node", ["deletes"])


def test_a_database_that_does_not_answer_explains_tasks_that_are_late() -> None:
    """The relay waits for it, though a worker and beat run."""
    faults = [Fault(FaultKind.TASKS_LATE, "tasks"), Fault(FaultKind.DATABASE_DOWN, "database")]
    [fault] = by_cause(faults)
    assert (fault.message, [each.message for each in fault.consequences]) == ("database", ["tasks"])
