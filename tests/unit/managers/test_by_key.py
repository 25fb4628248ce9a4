"""Which rows an audit finds to be the same."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from cachebackend.managers.by_key import _are_same

NAN = float("nan")


class Rounded(float):
    """Shows less than its value, as the objects of some fields do."""

    def __repr__(self) -> str:
        return f"{float(self):.1f}"


@pytest.mark.parametrize(
    "value",
    [NAN, Decimal("NaN"), (1, NAN), {"weights": [NAN, 1.0]}, None, "text", [1, [NAN, Decimal("NaN")]]],
)
def test_nan_is_the_same_as_nan(value: Any) -> None:
    """In an array or an object of JSON, too."""
    other = {float: float("nan"), Decimal: Decimal("NaN")}.get(type(value), value)
    assert _are_same([1, value], [1, other])
    assert not _are_same([1, value], [1, 7])
    assert not _are_same([1, value], [1])
    assert not _are_same([1, value], None)


def test_values_that_are_only_written_the_same_differ() -> None:
    """An audit that compared what is written would not find them."""
    assert repr([Rounded(1.01)]) == repr([Rounded(1.02)])
    assert not _are_same([Rounded(1.01)], [Rounded(1.02)])
    assert not _are_same([NAN], [Decimal("NaN")])
    assert not _are_same([{"a": NAN}], [{"b": NAN}])
