from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachebackend.histogram import Histogram


def of(*seconds: float) -> Histogram:
    histogram = Histogram()
    for each in seconds:
        histogram.add(each)
    return histogram


@given(st.floats(1e-5, 60.0))
def test_a_time_is_told_to_an_eighth(seconds: float) -> None:
    """Whatever its size, as each doubling has four buckets."""
    assert of(seconds).percentile(0.5) == pytest.approx(seconds, rel=0.125, abs=1e-6)


@given(st.lists(st.integers(0, 2**27)), st.integers(0, 26))
def test_no_bucket_spans_a_power_of_two(micros: list[int], power: int) -> None:
    """So how many were shorter than it is exact."""
    histogram = of(*(each / 1_000_000 + 1e-9 for each in micros))
    assert histogram.below(2**power) == sum(each < 2**power for each in micros)


def test_percentiles_are_of_the_rank() -> None:
    """One slow call of a hundred is above the 99th, and is the greatest."""
    histogram = of(*[0.001] * 99, 1.0)
    assert histogram.percentile(0.99) == pytest.approx(0.001, rel=0.125)
    assert histogram.percentile(1.0) == pytest.approx(1.0, rel=0.125)
    assert Histogram().percentile(0.5) is None


def test_histograms_add_up_and_travel() -> None:
    """As their counts do."""
    both = of(0.001, 3.0)
    both.merge(of(0.001, 200.0))
    assert (both.count, both.seconds) == (4, pytest.approx(203.002))
    assert Histogram.read(both.as_dict()) == both
