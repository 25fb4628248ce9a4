"""Figures as text."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from cachebackend.histogram import Histogram
from cachebackend.monitoring import formatting

NOW = 1_700_000_000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is NOW."""
    monkeypatch.setattr(formatting, "time", SimpleNamespace(time=lambda: NOW))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0.0 s"),
        (0.04, "0.0 s"),
        (9.9, "9.9 s"),
        (10, "10 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172_800, "2 d"),
    ],
)
def test_a_duration_has_the_unit_that_people_use(seconds: float, text: str) -> None:
    """A larger unit from two of it on; a negative duration, by another machine's clock, is 0."""
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KB"), (5 * 1024**2, "5.0 MB"), (3 * 1024**4, "3,072.0 GB")],
)
def test_a_number_of_bytes_has_the_unit_that_people_use(number: int, text: str) -> None:
    """No line break comes before the unit."""
    assert formatting.size(number) == text.replace(" ", "\N{NO-BREAK SPACE}")


@pytest.mark.parametrize(
    ("age", "text"),
    [(300, "5 min ago"), (1, "1 s ago"), (11.7, "11 s ago"), (0.2, "just now"), (-60, "just now")],
)
def test_a_time_in_the_future_is_just_now(age: float, text: str) -> None:
    """It was recorded by a machine whose clock is ahead."""
    assert formatting.ago(NOW - age) == text
    assert formatting.moment(NOW - age).endswith(f" ({text})")


def test_a_moment_of_another_day_has_its_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time of the same day has none."""
    assert formatting.moment(0).startswith("1970-01-01 ")
    assert formatting.moment(time.time())[2] == ":"


def test_percentiles_are_in_milliseconds() -> None:
    """No line breaks within one of them; without any duration there is nothing to show."""
    times = Histogram()
    assert formatting.percentiles(times) == ""
    times.add(0.5)
    median, slow = formatting.percentiles(times).split(", ")
    assert median.startswith("p50\xa0")
    assert slow.endswith("\xa0ms")
    assert " " not in median + slow


def test_names_are_listed_as_in_a_sentence() -> None:
    """With a word before the last one."""
    assert [formatting.listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]


def test_a_number_has_its_noun_in_the_singular_or_the_plural() -> None:
    """A sentence with "1 writes" looks as if something were wrong with the number."""
    assert [formatting.counted(number, "write") for number in (0, 1, 1200)] == [
        "0 writes",
        "1 write",
        "1,200 writes",
    ]
