"""Queued values in another encoding than their column has now."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachebackend.writebehind.conversion import (
    conversion_fault,
    convert,
    convert_columns,
    pack_changes,
    split_code,
    unpack_changes,
)
from cachebackend.writebehind.encoding import NULL, Encoding, encoding_of_code
from cachebackend.writebehind.stored_writes import StoredChange, unpack_write
from tests.shop.models import Meter

DAY = date(2026, 5, 1).toordinal()


def coded(code: str) -> Encoding:
    encoding = encoding_of_code(code)
    assert encoding is not None
    return encoding


@pytest.mark.parametrize(
    ("code", "target", "kind", "encoded", "expected"),
    [
        ("n2", "n4", b"p", b"=12345", b"=1234500"),
        ("n4", "n2", b"p", b"=1234500", b"=12345"),
        ("i", "n7", b"p", b"=7", b"=70000000"),
        ("n2", "i", b"d", b"-700", b"-7"),
        ("i", "n2", b"g", b"5", b"500"),
        ("i", "n2", b"p", NULL, NULL),
        ("i", "f", b"p", b"=3", b"=3.0"),
        ("f", "n2", b"p", b"=0.1", b"=10"),
        ("i", "b", b"p", b"=1", b"=1"),
        ("b", "i", b"p", b"=1", b"=1"),
        ("n2", "s", b"p", b"=150", b"=1.50"),
        ("i", "s", b"p", b"=-5", b"=-5"),
        ("u", "s", b"p", b"=" + uuid.UUID(int=7).hex.encode(), b"=" + str(uuid.UUID(int=7)).encode()),
        ("d", "s", b"p", b"=%d" % DAY, b"=2026-05-01"),
        ("d", "ts", b"p", b"=%d" % DAY, b"=1777593600000000"),
        ("ts", "d", b"p", b"=1777593600000000", b"=%d" % DAY),
        ("d", "ts", b"g", b"%d" % DAY, b"1777593600000000"),
    ],
)
def test_a_value_is_converted_exactly(
    code: str, target: str, kind: bytes, encoded: bytes, expected: bytes
) -> None:
    """A put with its prefix, a sum or a bound without."""
    assert convert(encoded, kind, code, coded(target)) == expected


@pytest.mark.parametrize(
    ("code", "target", "kind", "encoded"),
    [
        ("n4", "n2", b"p", b"=12345"),
        ("n2", "i", b"d", b"150"),
        ("i", "b", b"p", b"=2"),
        ("f", "i", b"p", b"=nan"),
        ("f", "i", b"p", b"=inf"),
        ("f", "s", b"p", b"=0.1"),
        ("b", "s", b"p", b"=1"),
        ("i", "f", b"p", b"=9007199254740993"),
        ("i", "ts", b"p", b"=5"),
        ("i", "f", b"d", b"5"),
        ("i", "f", b"g", b"5"),
        ("ts", "d", b"p", b"=1777593600000001"),
        ("ts", "dur", b"d", b"5"),
        ("s", "i", b"p", b"=5"),
        ("?", "i", b"p", b"=5"),
        ("n2", "i", b"p", b"=x"),
    ],
)
def test_a_value_without_an_exact_equal_is_not_converted(
    code: str, target: str, kind: bytes, encoded: bytes
) -> None:
    """Digits that would be rounded, changes that the type does not have, types that are not known."""
    with pytest.raises((ArithmeticError, TypeError, ValueError)):
        convert(encoded, kind, code, coded(target))


@given(st.integers(-(10**20), 10**20), st.integers(0, 12), st.integers(0, 12))
def test_decimals_are_never_rounded(scaled: int, places: int, other: int) -> None:
    """The converted value is equal, or there is none."""
    value = Decimal(scaled).scaleb(-places)
    try:
        converted = convert(b"=%d" % scaled, b"p", f"n{places}", coded(f"n{other}"))
    except ValueError:
        assert value != value.quantize(Decimal(1).scaleb(-other))
    else:
        assert Decimal(int(converted[1:])).scaleb(-other) == value


def test_only_columns_with_another_encoding_are_converted() -> None:
    """A value that is not converted keeps its code beside the column's name."""
    columns: dict[Any, Any] = {
        ("total", b"p"): {1: b"=1000", 2: b"=1001"},
        ("level", b"d"): {1: b"5"},
        ("gone", b"p"): {1: b"=1"},
        ("label", b"p"): {1: b"=x"},
    }
    encodings = {"total": "n3", "level": "i", "gone": "i"}
    assert convert_columns(Meter, columns, encodings) == {
        ("total", b"p"): {1: b"=100"},
        ("total\0n3", b"p"): {2: b"=1001"},
        ("level", b"d"): {1: b"5"},
        ("gone\0i", b"p"): {1: b"=1"},
        ("label", b"p"): {1: b"=x"},
    }


def test_packed_changes_keep_their_codes() -> None:
    """They are converted when they are unpacked; those of an earlier release have no codes."""
    changes = {("total", b"p"): b"=150", ("level\0n1", b"d"): b"5", ("gone\0i", b"p"): b"=1"}
    packed = pack_changes(Meter, changes)
    assert packed["codes"] == ["n2", "n1", "i"]
    assert unpack_changes(Meter, stored(packed)) == changes
    packed["codes"][0] = "n1"
    assert unpack_changes(Meter, stored(packed))["total", b"p"] == b"=1500"
    of_earlier = {"changes": [["total", b"p", b"=150"]]}
    assert unpack_changes(Meter, stored(of_earlier)) == {("total", b"p"): b"=150"}


def stored(packed: dict[str, Any]) -> list[StoredChange]:
    return unpack_write(ormsgpack.packb(packed | {"marker": b""})).changes


def test_a_refusal_names_both_types() -> None:
    """Or the column that is gone."""
    assert conversion_fault(Meter, "total") is None
    gone = "shop.Meter has no column 'gone' any more."
    assert (conversion_fault(Meter, "gone"), conversion_fault(Meter, "gone\0i")) == (gone, gone)
    assert conversion_fault(Meter, "level\0n4") == (
        "shop.Meter.level: the write was queued when the column was a decimal with 4 decimal places, and now "
        "it is an integer; the value cannot be converted exactly."
    )
    assert "of the type '?'" in str(conversion_fault(Meter, "level\0?"))
    assert split_code("level\0n4") == ("level", "n4")
    assert split_code("level") == ("level", None)


def test_a_moment_is_a_day_only_at_midnight() -> None:
    """In UTC."""
    assert coded("ts").decode(b"1777593600000000") == datetime(2026, 5, 1, tzinfo=UTC)
