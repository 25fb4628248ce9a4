"""The charts over an hour, a day and a week."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cachebackend.admin import history
from cachebackend.admin.history import alias_history, chosen_period, drained_chart, period_links
from cachebackend.counters import Counts, DrainCounts
from cachebackend.errors import NodeUnavailableError
from cachebackend.monitoring import AliasFigures, QueueFigures
from cachebackend.telemetry.periods import DAY, HOUR, WEEK, Period

FIGURES = AliasFigures("default", [], {1: Counts(hits=3, misses=1), 2: None}, None, None, 240.0, [])


@pytest.mark.parametrize(
    ("name", "period"), [("hour", HOUR), ("day", DAY), ("week", WEEK), (None, HOUR), ("x", HOUR)]
)
def test_a_period_is_chosen_by_its_name(name: str | None, period: Period) -> None:
    """Any other name is an hour; the links show which one is chosen."""
    assert chosen_period(name) is period
    assert [each for each, _, is_chosen in period_links(period) if is_chosen] == [period.name]


def test_an_hour_needs_no_further_read() -> None:
    """The minutes were read for the figures; one that is not known has no row and is a gap."""
    found = alias_history(FIGURES, HOUR)
    assert found["rows"] == [("1 min ago", 3, 1, 75.0, 0)]
    assert [title for title, _ in found["charts"]] == ["Hit ratio", "Reads per minute", "Loads per minute"]


def test_a_day_has_steps_of_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rates are those of a minute."""
    monkeypatch.setattr(history, "time", SimpleNamespace(time=lambda: 599.0))
    steps = [*[None] * 142, Counts(hits=100), Counts(hits=60)]
    monkeypatch.setattr(history, "step_counts", lambda alias, period: steps)
    found = alias_history(FIGURES, DAY)
    assert found["rows"] == [("10 min ago", 100, 0, 100.0, 0), ("now", 60, 0, 100.0, 0)]
    assert "top: 10</span>" in found["charts"][1][1]
    assert "23 h ago" in found["charts"][0][1]


@pytest.mark.parametrize(
    ("period", "elapsed", "shown"),
    [(HOUR, 59.0, None), (DAY, 59.0, None), (DAY, 300.0, 12.0), (WEEK, 1800.0, 2.0)],
)
def test_a_step_that_is_not_over_looks_like_no_outage(
    monkeypatch: pytest.MonkeyPatch, period: Period, elapsed: float, shown: float | None
) -> None:
    """It is a gap if it has only begun; else its rate is that of the time that is over."""
    monkeypatch.setattr(history, "time", SimpleNamespace(time=lambda: 36_000.0 + elapsed))
    finished = period.finished(36_000.0 + elapsed)
    before, last = history._per_minute([60, 60], period, finished)
    assert before == 60 * 60 / period.seconds
    assert last == shown
    assert history._per_minute([], period, finished) in ([], [None])


def test_steps_that_cannot_be_read_are_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page stays up."""

    def fail(*_: object) -> None:
        raise NodeUnavailableError

    monkeypatch.setattr(history, "step_counts", fail)
    monkeypatch.setattr(history, "write_steps", fail)
    assert "no figures" in alias_history(FIGURES, WEEK)["charts"][0][1]
    assert "no figures" in drained_chart(QueueFigures(is_on=True), WEEK)


def test_drained_rows_have_a_chart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the hour from the figures, of a longer period from its steps."""
    queues = QueueFigures(is_on=True, minutes=[DrainCounts(rows=7), None])
    assert "top: 7</span>" in drained_chart(queues, HOUR)
    monkeypatch.setattr(history, "write_steps", lambda period: [DrainCounts(rows=120), None])
    assert "top: 2</span>" in drained_chart(queues, WEEK)
    assert "no figures" in drained_chart(QueueFigures(), WEEK)
