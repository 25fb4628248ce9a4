"""How the values of columns are encoded: exactly, and as integers where they can be added."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator
from django.db import models

from cachebackend.errors import WriteBehindRefusedError
from cachebackend.writebehind.encoding import NULL, clean_value, encoding_of
from tests.shop.models import Everything, Meter

FIELDS: dict[str, Any] = {field.name: field for field in Everything._meta.concrete_fields}
MOMENT = datetime(2026, 5, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "value", "encoded"),
    [
        ("small", -3, b"-3"),
        ("large", 2**63 - 1, b"9223372036854775807"),
        ("decimal", Decimal("1.5"), b"15000000000"),
        ("moment", MOMENT, b"1777638615123456"),
        ("length", timedelta(seconds=-1), b"-1000000"),
        ("day", date(1, 1, 2), b"2"),
        ("clock", time(0, 0, 1, 5), b"1000005"),
        ("flag", True, b"1"),
        ("flag", False, b"0"),
        ("real", 0.1, b"0.1"),
        ("text", "žluť", "žluť".encode()),
        ("identity", uuid.UUID(int=1), b"0" * 31 + b"1"),
        ("binary", b"\x00\xff", b"\x00\xff"),
        ("document", {"a": ["ž"]}, '{"a": ["ž"]}'.encode()),
        ("address", "10.0.0.1", b"10.0.0.1"),
        ("target", "key", b"key"),
    ],
)
def test_a_value_comes_back_exactly(name: str, value: Any, encoded: bytes) -> None:
    """The encoding is fixed: an older worker may drain what a newer process wrote."""
    encoding = encoding_of(FIELDS[name])
    assert encoding.encode(value) == encoded
    assert encoding.decode(encoded) == value
    assert encoding.decode_put(b"=" + encoded) == value
    assert encoding.decode_put(NULL) is None


@pytest.mark.parametrize(
    ("name", "value", "delta", "encoded"),
    [
        ("large", 5, 2, 2),
        ("decimal", Decimal("0.1"), Decimal("0.2"), 2_000_000_000),
        ("decimal", Decimal("0.1"), 3, 30_000_000_000),
        ("moment", MOMENT, timedelta(seconds=1), 1_000_000),
        ("length", timedelta(0), timedelta(microseconds=-1), -1),
    ],
)
def test_a_delta_is_an_integer_and_adds_exactly(name: str, value: Any, delta: Any, encoded: int) -> None:
    """So a node can add deltas without rounding."""
    encoding = encoding_of(FIELDS[name])
    assert encoding.encode_delta is not None
    assert encoding.decode_delta is not None
    assert encoding.encode_delta(delta) == encoded
    assert encoding.add(value, encoding.decode_delta(encoded)) == value + delta


@pytest.mark.parametrize("name", ["flag", "real", "text", "identity", "binary", "document", "day", "target"])
def test_nothing_is_added_to_other_columns(name: str) -> None:
    """Adding floats rounds, and a reference has no sum."""
    assert encoding_of(FIELDS[name]).encode_delta is None


@pytest.mark.parametrize(
    ("name", "delta"), [("large", True), ("large", 1.5), ("decimal", 1.5), ("moment", 5)]
)
def test_a_delta_of_another_type_is_refused(name: str, delta: Any) -> None:
    """A bool is not an integer."""
    encoding = encoding_of(FIELDS[name])
    assert encoding.encode_delta is not None
    with pytest.raises(TypeError):
        encoding.encode_delta(delta)


@pytest.mark.parametrize(
    ("name", "value"),
    [("text", "a\0b"), ("document", {"a": "\0"}), ("document", float("nan")), ("decimal", Decimal("1e-11")),
     ("clock", time(1, tzinfo=UTC))],
)  # fmt: skip
def test_a_value_that_the_column_cannot_store_is_refused(name: str, value: Any) -> None:
    """NUL characters, NaN in JSON, digits that would be rounded, a time with a zone."""
    with pytest.raises(ValueError):  # noqa: PT011  # each says it in its own words
        encoding_of(FIELDS[name]).encode(value)


@pytest.mark.parametrize("value", [5, "text", None])
def test_only_bytes_are_binary(value: Any) -> None:
    """A number would become as many NUL bytes."""
    with pytest.raises(TypeError, match="bytes can be stored, not"):
        encoding_of(FIELDS["binary"]).encode(value)
    assert encoding_of(FIELDS["binary"]).encode(memoryview(b"a")) == b"a"


def test_an_escaped_backslash_before_u0000_is_text() -> None:
    """It does not stand for a NUL character."""
    encoding = encoding_of(FIELDS["document"])
    assert encoding.decode(encoding.encode("\\u0000")) == "\\u0000"


@pytest.mark.parametrize(
    ("name", "largest"),
    [("small", 2**16), ("made", 2**32), ("large", 2**63 - 1), ("decimal", 2**63 - 1)],
)
def test_a_delta_has_a_limit_beyond_which_it_leaves_any_column(name: str, largest: int) -> None:
    """Such a delta is refused when it is asked, not when it is drained."""
    assert encoding_of(FIELDS[name]).largest_delta == largest


def test_integers_in_the_range_of_a_column_need_no_validators() -> None:
    """A field with validators of its own runs them."""
    bounded: models.Field[Any, Any] = models.IntegerField(validators=[MaxValueValidator(9)])
    bounded.set_attributes_from_name("bounded")
    assert 9 in encoding_of(bounded).integers
    assert 10 not in encoding_of(bounded).integers
    even: models.Field[Any, Any] = models.IntegerField(validators=[print])
    even.set_attributes_from_name("even")
    assert encoding_of(even).integers == range(0)


def test_a_value_is_cleaned_as_the_field_does_it() -> None:
    """Converted and validated; a reference by the column that it refers to."""
    assert clean_value(FIELDS["large"], "5") == 5
    assert clean_value(FIELDS["target"], "key") == "key"
    assert clean_value(Meter._meta.get_field("id"), str(uuid.UUID(int=5))) == uuid.UUID(int=5)
    with pytest.raises(ValidationError):
        clean_value(FIELDS["odd"], "abcd")


def test_a_field_that_stores_values_in_its_own_way_is_refused() -> None:
    """Its column would not hold what the encoding says."""

    class Stored(models.IntegerField):  # type: ignore[type-arg]
        def get_prep_value(self, value: Any) -> Any:
            return -value

    field = Stored()
    field.set_attributes_from_name("stored")
    with pytest.raises(WriteBehindRefusedError, match="in its own way"):
        encoding_of(field)


def test_a_float_key_has_one_zero() -> None:
    """Postgres holds the keys 0.0 and -0.0 equal; another column keeps the sign."""
    key, other = models.FloatField(primary_key=True), models.FloatField()
    for field in (key, other):
        field.set_attributes_from_name("value")
    assert encoding_of(key).encode(-0.0) == encoding_of(key).encode(0.0) == b"0.0"
    assert encoding_of(other).encode(-0.0) == b"-0.0"


def test_a_duration_is_added_to_a_datetime_as_elapsed_time(settings: Any) -> None:
    """Also where the clocks change in between, and to naive times, which are those of the project's zone."""
    zone, add = ZoneInfo("Europe/Berlin"), encoding_of(Meter._meta.get_field("seen")).add  # type: ignore[arg-type]  # a field
    day = timedelta(hours=24)
    assert add(datetime(2026, 3, 28, 12, tzinfo=zone), day) == datetime(2026, 3, 29, 11, tzinfo=UTC)
    settings.USE_TZ, settings.TIME_ZONE = False, "Europe/Berlin"
    assert add(datetime(2026, 3, 29, 1, 30), timedelta(hours=1)) == datetime(2026, 3, 29, 3, 30)
