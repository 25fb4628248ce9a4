"""Writes that were not queued."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.utils import timezone

from cachebackend.counters import DrainCounts
from cachebackend.monitoring.lost_writes import lost_faults
from cachebackend.monitoring.runbook import RUNBOOK, FaultKind

NOW = datetime(2026, 5, 1, 22, 30, 10, tzinfo=UTC).timestamp()


def minutes(**counts_by_age: DrainCounts) -> list[DrainCounts | None]:
    """An hour in which writes were lost, by the age of the minute, as in ``m3``."""
    found: list[DrainCounts | None] = [DrainCounts() for _ in range(60)]
    for age, counts in counts_by_age.items():
        found[59 - int(age[1:])] = counts
    return found


@pytest.fixture(autouse=True)
def utc() -> object:
    with timezone.override(UTC):
        yield


def test_writes_that_fail_now_are_a_fault() -> None:
    """With the minute in which they began to."""
    [fault] = lost_faults(minutes(m3=DrainCounts(refused=200), m1=DrainCounts(refused=13, unknown=1)), NOW)
    assert (fault.kind, fault.is_note) == (FaultKind.WRITES_REFUSED, False)
    assert fault.message == (
        "214 writes failed since 22:27: their callers got errors; 1 of them may be queued nevertheless."
    )
    assert fault.since == NOW - 10 - 180


def test_when_no_more_fail_it_is_a_note() -> None:
    """It says when they did; an earlier loss that ended long before is not added."""
    lost = minutes(m40=DrainCounts(refused=7), m9=DrainCounts(refused=200), m8=DrainCounts(refused=14))
    [note] = lost_faults(lost, NOW)
    assert note.is_note
    assert note.message == (
        "214 writes failed between 22:21 and 22:23, and none since: their callers got errors."
    )


def test_writes_that_are_lost_stay_a_fault_for_an_hour() -> None:
    """Their callers do not know."""
    [fault] = lost_faults(minutes(m40=DrainCounts(dropped=4)), NOW)
    assert (fault.kind, fault.is_note) == (FaultKind.WRITES_DROPPED, False)
    assert fault.message == (
        "4 writes of counters were dropped, because they were not queued, "
        "between 21:50 and 21:51, and none since."
    )
    assert list(lost_faults([None] * 60, NOW)) == list(lost_faults(minutes(), NOW)) == []


def test_what_is_over_is_shown_below_what_lasts() -> None:
    """Faults are shown in the order of the runbook."""
    *_, dropped, refused, _ = RUNBOOK
    assert (dropped, refused) == (FaultKind.WRITES_DROPPED, FaultKind.WRITES_REFUSED)
