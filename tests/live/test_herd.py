"""Herds of 200 readers from 8 processes, on one key."""

from __future__ import annotations

import pytest

from benchmarks.herd import PROCESSES, THREADS, herd

pytestmark = pytest.mark.usefixtures("empty_nodes")
READERS = PROCESSES * THREADS


def test_two_hundred_misses_at_once_are_one_load() -> None:
    """The others wait for the value, in all processes."""
    result = herd("lease")
    assert (result.reads, result.loads) == (READERS, 1)


def test_an_invalidation_costs_at_most_one_load() -> None:
    """Fifty invalidations while all readers read: at most fifty-one loads."""
    result = herd("lease", invalidations=50)
    assert result.reads >= READERS
    assert 1 <= result.loads <= 51


def test_no_reader_waits_for_a_refresh_of_a_stale_value() -> None:
    """One reader loads; the others get the stale value."""
    result = herd("lease", stale=True)
    assert (result.reads, result.loads, result.waits) == (READERS, 1, 0)
