"""The lines of ``ring doctor``."""

from __future__ import annotations

from cachebackend.management.ring_doctor import lines_of
from cachebackend.monitoring import Fault
from cachebackend.monitoring.runbook import FaultKind


def test_consequences_are_below_their_cause_without_advice_of_their_own() -> None:
    """What to do about the cause ends them too; advice of theirs would contradict it."""
    pending = Fault(FaultKind.DELETES_PENDING, "Deletes have been pending for 27 s.")
    down = Fault(FaultKind.NODE_DOWN, "Node a is down: refused", advice="Start it.", consequences=(pending,))
    assert list(lines_of([down])) == [
        "Node a is down: refused. Start it.",
        "  so: Deletes have been pending for 27 s.",
    ]
