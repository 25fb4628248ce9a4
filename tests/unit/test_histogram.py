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
def test_a_percentile_is_exact_to_an_eighth(seconds: float) -> None:
    """For durations of any size, because each doubling has four buckets."""
    assert of(seconds).percentile(0.5) == pytest.approx(seconds, rel=0.125, abs=1e-6)


@given(st.lists(st.integers(0, 2**27)), st.integers(0, 26))
def test_no_bucket_contains_a_power_of_two(micros: list[int], power: int) -> None:
    """So the number of durations that are shorter than a power of two is exact."""
    histogram = of(*(each / 1_000_000 + 1e-9 for each in micros))
    assert histogram.count_below(2**power) == sum(each < 2**power for each in micros)


def test_a_percentile_is_the_duration_at_its_rank() -> None:
    """One slow call of a hundred is above the 99th percentile, and is the maximum."""
    histogram = of(*[0.001] * 99, 1.0)
    assert histogram.percentile(0.99) == pytest.approx(0.001, rel=0.125)
    assert histogram.percentile(1.0) == pytest.approx(1.0, rel=0.125)
    assert Histogram().percentile(0.5) is None


def test_histograms_are_added_and_converted_to_a_dict_and_back() -> None:
    """No count or sum is lost."""
    both = of(0.001, 3.0)
    both.merge(of(0.001, 200.0))
    assert (both.count, both.seconds) == (4, pytest.approx(203.002))
    assert Histogram.from_dict(both.as_dict()) == both
