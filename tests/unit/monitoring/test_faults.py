"""Faults, and the ages above which a figure is one."""

from __future__ import annotations

import time

import pytest

from cachebackend.monitoring.faults import Fault, max_tick_age, max_waiting_age
from cachebackend.options import WriteBehindOptions


def test_a_fault_says_since_when_if_that_is_known() -> None:
    """As a time of day and an age."""
    assert Fault("nodes", "Node a does not answer.").since_text == ""
    assert " ago)" in Fault("nodes", "Node a does not answer.", time.time() - 90).since_text


@pytest.mark.parametrize(("flush_interval", "tick", "waiting"), [(1.0, 10.0, 30.0), (60.0, 300.0, 1800.0)])
def test_the_limits_follow_the_flush_interval(flush_interval: float, tick: float, waiting: float) -> None:
    """A project that drains once a minute has no fault after ten seconds."""
    options = WriteBehindOptions.read({"flush_interval": flush_interval})
    assert (max_tick_age(options), max_waiting_age(options)) == (tick, waiting)
