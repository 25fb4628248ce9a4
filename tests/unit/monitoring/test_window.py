"""The minutes over which rates are computed."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace

import pytest

from cachebackend.counters import Counts
from cachebackend.monitoring import window


@pytest.mark.parametrize(("now", "seconds"), [(600.0, 240.0), (630.5, 270.5), (659.0, 299.0)])
def test_the_current_minute_counts_with_its_elapsed_seconds(
    monkeypatch: pytest.MonkeyPatch, now: float, seconds: float
) -> None:
    """Otherwise every rate would fall at the beginning of a minute."""
    monkeypatch.setattr(window, "time", SimpleNamespace(time=lambda: now))
    assert window.recent_seconds() == seconds


def test_the_sum_of_minutes_that_are_not_known_is_not_known() -> None:
    """Some that are known have a sum."""
    assert window.total_of([None, None]) is None
    assert window.total_of([None, Counts(hits=1), Counts(hits=2)]) == Counts(hits=3)


def test_only_minutes_without_any_count_can_be_lost() -> None:
    """One that has counts is not asked for; one that no node returned stays unknown."""
    asked: list[list[int]] = []

    def find_lost(minutes: Collection[int]) -> set[int]:
        asked.append(list(minutes))
        return {2}

    minutes = {1: None, 2: Counts(), 3: Counts(), 4: Counts(misses=1)}
    found = window.without_lost(minutes, find_lost)
    assert (found, asked) == ({1: None, 2: None, 3: Counts(), 4: Counts(misses=1)}, [[2, 3]])
    assert window.without_lost({1: Counts(hits=1)}, find_lost) == {1: Counts(hits=1)}
    assert len(asked) == 1
