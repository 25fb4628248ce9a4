"""Herds of 200 readers from 8 processes, on one key."""

from __future__ import annotations

import pytest

from benchmarks.herd import PROCESSES, THREADS, herd

pytestmark = pytest.mark.usefixtures("empty_nodes")
EVERYBODY = PROCESSES * THREADS


def test_two_hundred_misses_at_once_are_one_load() -> None:
    """The others wait for the value, in all processes."""
    found = herd("lease")
    assert (found.reads, found.loads) == (EVERYBODY, 1)


def test_an_invalidation_costs_at_most_one_load() -> None:
    """Fifty invalidations while all read: at most fifty-one loads."""
    found = herd("lease", invalidations=50)
    assert found.reads >= EVERYBODY
    assert 1 <= found.loads <= 51


def test_nobody_waits_for_a_refresh_of_a_stale_value() -> None:
    """One reader loads; the others get the stale value."""
    found = herd("lease", stale=True)
    assert (found.reads, found.loads, found.waits) == (EVERYBODY, 1, 0)
