"""Evictions a second, beside those that are usual for a node."""

from __future__ import annotations

import pytest

from cachebackend.monitoring import evictions
from cachebackend.monitoring.evictions import Evictions, evictions_of


@pytest.fixture(autouse=True)
def _no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evictions, "_looks", {})


def look(evicted: int, now: float, run: str = "r") -> Evictions | None:
    """Look at a node that was started 1,000 seconds before the time 0."""
    info = {"run_id": run, "evicted_keys": str(evicted), "uptime_in_seconds": str(int(1000 + now))}
    return evictions_of(info, now)


def test_evictions_a_second_are_those_since_the_last_look() -> None:
    """The usual ones are those before that look: a burst is not usual. Another run is another node."""
    assert look(100, 0.0) is None
    assert look(600, 10.0) == Evictions(50.0, 0.1)
    assert look(5, 20.0, "s") is None


def test_a_look_too_soon_returns_what_the_last_one_found() -> None:
    """Two viewers of the page see the same, and a rate does not come and go."""
    assert [look(100, 0.0), look(101, 0.5)] == [None, None]
    found = look(600, 10.0)
    assert look(990, 10.5) == found
    assert look(650, 20.0) == Evictions(5.0, 600 / 1010)


def test_a_node_that_does_not_report_them_has_no_evictions() -> None:
    """Unknown is not zero."""
    assert evictions_of({"run_id": "r", "evicted_keys": "5"}) is None
    assert evictions_of({}) is None


@pytest.mark.parametrize(
    ("rate", "usual", "are_unusual"), [(0.9, 0.0, False), (1.1, 0.0, True), (20.0, 2.0, False)]
)
def test_more_than_ten_times_the_usual_are_unusual(rate: float, usual: float, *, are_unusual: bool) -> None:
    """A full cache evicts all the time."""
    assert Evictions(rate, usual).are_unusual is are_unusual


def test_the_runs_that_are_remembered_have_a_limit() -> None:
    """A node that is restarted often does not fill the memory."""
    for number in range(evictions.MAX_RUNS + 3):
        look(0, 0.0, str(number))
    assert len(evictions._looks) <= evictions.MAX_RUNS + 1
