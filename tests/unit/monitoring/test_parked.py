"""The faults of parked writes."""

from __future__ import annotations

import time

import pytest

from cachebackend.monitoring import QueueFigures
from cachebackend.monitoring.faults import database_scope
from cachebackend.monitoring.parked import ParkedFigures, _shortened, parked_faults
from cachebackend.monitoring.runbook import FaultKind


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
    faults = parked_faults(ParkedFigures(2 - retried, 1.0, retried, since))
    assert [str(fault.kind) for fault in faults] == kinds


def test_parked_writes_are_a_fault_while_another_database_is_away() -> None:
    """How many there are in all is not known; those that are known are not hidden."""
    parked = ParkedFigures(1, 9.0, databases=["default"], unanswered={"database 'two'": "it is away"})
    assert QueueFigures(is_on=True, parked_writes=parked, is_database_up=False).parked is None
    [fault] = parked_faults(parked)
    assert (fault.kind, fault.since) == (FaultKind.WRITES_PARKED, 9.0)
    assert fault.scope == database_scope("default")


def test_a_parked_write_is_shown_with_its_error_and_in_the_singular() -> None:
    """The cause is in the fault, without the row's key and without a value that the error quotes."""
    error = _shortened('invalid input syntax for type integer: "secret"\nDETAIL: Failing row (secret)')
    [fault] = parked_faults(ParkedFigures(1, 1.0, error=f"demo.article: {error}"))
    assert fault.message == (
        "1 write is parked because Postgres refused it: demo.article: invalid input syntax for type integer."
    )
