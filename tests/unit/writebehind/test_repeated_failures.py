"""Failures of a batch that repeat themselves."""

from __future__ import annotations

from cachebackend.writebehind.repeated_failures import _MAX_BATCHES, TOLERATED, RepeatedFailures
from tests.unit.writebehind.test_refusals import error_with


def test_a_failure_is_repeated_after_more_than_one_drain_tries() -> None:
    """Another SQLSTATE of the same batch, and a success, begin again."""
    failures = RepeatedFailures()
    assert not any(failures.is_repeated("a", error_with("40001")) for _ in range(TOLERATED))
    assert not failures.is_repeated("b", error_with("40001"))
    assert failures.is_repeated("a", error_with("40001"))
    assert not failures.is_repeated("a", error_with("XX000"))
    for _ in range(TOLERATED):
        failures.is_repeated("a", error_with("XX000"))
    failures.forget("a")
    assert not failures.is_repeated("a", error_with("XX000"))


def test_batches_that_other_processes_drain_are_forgotten() -> None:
    """The memory for failures is bounded."""
    failures = RepeatedFailures()
    for number in range(_MAX_BATCHES + 5):
        failures.is_repeated(str(number), error_with("40001"))
    assert len(failures._failures) == _MAX_BATCHES
