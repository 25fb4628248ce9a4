"""Queued values as the texts of Postgres' arrays."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import models
from psycopg.adapt import Transformer

from cachebackend.writebehind.arrays import array_text, converter
from tests.shop.models import Meter


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "{}"),
        ([None, None], "{NULL,NULL}"),
        ([1, None, -2], "{1,NULL,-2}"),
        (["a", None, 'b"\\,{}'], '{"a",NULL,"b\\"\\\\,{}"}'),
        ([True, False], '{"t","f"}'),
    ],
)
def test_values_are_elements_of_an_array(values: list[Any], text: str) -> None:
    """NULL is not quoted, and characters that an array has a meaning for are escaped."""
    assert array_text(values, Transformer()) == text


@pytest.mark.parametrize(
    ("name", "kind", "encoded", "value"),
    [
        ("level", b"p", b"=5", 5),
        ("level", b"p", b"0", None),
        ("level", b"d", b"-5", -5),
        ("seen", b"d", b"86400000000", "86400000000 microseconds"),
    ],
)
def test_a_change_is_converted_for_psycopg(name: str, kind: bytes, encoded: bytes, value: Any) -> None:
    """A duration is elapsed time, not a day of the calendar."""
    field = Meter._meta.get_field(name)
    assert isinstance(field, models.Field)
    assert converter(field, kind)(encoded) == value


def test_bytes_that_no_put_has_are_an_error() -> None:
    """A put begins with an equals sign, or is NULL."""
    field = Meter._meta.get_field("level")
    assert isinstance(field, models.Field)
    with pytest.raises(ValueError, match="not an encoded value"):
        converter(field, b"p")(b"5")
