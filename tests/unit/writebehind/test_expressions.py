from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import models
from django.db.models import F
from django.db.models.functions import Greatest, Now

from cachebackend.errors import WriteBehindRefusedError
from cachebackend.writebehind import expressions
from cachebackend.writebehind.encoding import encoding_of
from cachebackend.writebehind.expressions import DELTA, PUT, encode_change
from cacheproject.demo.models import Article


def field(kind: type[models.Field[Any, Any]], **options: Any) -> models.Field[Any, Any]:
    column = kind(**options)
    column.set_attributes_from_name("x")
    return column


INTEGER = field(models.IntegerField)
DECIMAL = field(models.DecimalField, max_digits=8, decimal_places=2)
WIDE = field(models.DecimalField, max_digits=40, decimal_places=2)
MOMENT = field(models.DateTimeField, null=True)


def reference(to_field: str) -> models.ForeignKey[Any, Any]:
    column = field(models.ForeignKey, to="demo.Article", on_delete=models.CASCADE, to_field=to_field)
    column.remote_field.model = Article
    column.opts = Article._meta
    return column


REFERENCE, BY_SLUG = reference("id"), reference("slug")


@pytest.mark.parametrize(
    ("column", "change", "encoded"),
    [
        (INTEGER, F("x") + 3, b"3"),
        (INTEGER, F("x") - 3, b"-3"),
        (INTEGER, 3 + F("x"), b"3"),
        (DECIMAL, F("x") + Decimal("1.05"), b"105"),
        (DECIMAL, F("x") - 1, b"-100"),
        (WIDE, F("x") - Decimal("92233720368547758.07"), b"-9223372036854775807"),
        (MOMENT, F("x") + timedelta(seconds=1.5), b"1500000"),
    ],
)
def test_an_addition_to_the_column_itself_is_a_delta(column: Any, change: Any, encoded: bytes) -> None:
    """As an integer, so that nothing is rounded."""
    assert encode_change(column, change) == (DELTA, encoded)


@pytest.mark.parametrize(
    ("column", "value", "encoded"),
    [
        (INTEGER, 7, b"=7"),
        (INTEGER, "7", b"=7"),
        (DECIMAL, Decimal("1.5"), b"=150"),
        (WIDE, Decimal("12345678901234567890123456789012.34"), b"=1234567890123456789012345678901234"),
        (MOMENT, datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC), b"=1000005"),
        (MOMENT, None, b"0"),
        (field(models.CharField, max_length=5), "=0", b"==0"),
        (field(models.BooleanField), True, b"=1"),
        (field(models.JSONField), {"re": "\\u0000"}, b'={"re": "\\\\u0000"}'),
        (REFERENCE, "7", b"=7"),
        (REFERENCE, Article(pk=9), b"=9"),
        (BY_SLUG, Article(pk=9, slug="nine"), b"=nine"),
    ],
)
def test_anything_else_is_put(column: Any, value: Any, encoded: bytes) -> None:
    """A value, cleaned by the field; None differs from every value."""
    assert encode_change(column, value) == (PUT, encoded)


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        (INTEGER, F("y") + 1, "takes a value, F('x') ± n"),
        (INTEGER, F("x") * 2, "takes a value, F('x') ± n"),
        (INTEGER, 1 - F("x"), "takes a value, F('x') ± n"),
        (INTEGER, F("x") + F("x"), "takes a value, F('x') ± n"),
        (INTEGER, F("x") + 1.5, "an integer can be added"),
        (INTEGER, F("x") + True, "an integer can be added"),
        (INTEGER, F("x") - True, "an integer can be added"),
        (INTEGER, F("x") - "1", "an integer can be added"),
        (INTEGER, F("x") + None, "None cannot be added"),
        (INTEGER, F("x") + 2**63, "beyond what the column, or 64 bits, can hold"),
        (INTEGER, F("x") + 2**40, "beyond what the column"),
        (field(models.BigIntegerField), F("x") + 2**63, "beyond what the column"),
        (field(models.TextField), "a\0b", "holds no NUL"),
        (field(models.TextField), "\ud800", "surrogates not allowed"),
        (field(models.JSONField), float("nan"), "Out of range float values"),
        (field(models.JSONField), {"a": "\0"}, "holds no NUL"),
        (field(models.JSONField), {1, 2}, "not JSON serializable"),
        (MOMENT, datetime(2024, 1, 1), "can't subtract offset-naive"),
        (MOMENT, 5, "cannot be 5"),
        (INTEGER, "seven", "must be an integer"),
        (INTEGER, 2**31, "less than or equal to 2147483647"),
        (INTEGER, None, "does not take None"),
        (INTEGER, Greatest(F("x"), None), "takes a value, F('x') ± n"),
        (DECIMAL, F("x") + Decimal("0.001"), "more than 2 decimal places"),
        (DECIMAL, F("x") + Decimal("NaN"), "NaN') cannot be added"),
        (DECIMAL, F("x") - Decimal("-Infinity"), "Infinity') cannot be added"),
        (DECIMAL, F("x") + Decimal("1E+999999999"), "999999999') cannot be added"),
        (DECIMAL, F("x") + "abc", "'abc' cannot be added"),
        (DECIMAL, F("x") - None, "None cannot be added"),
        (DECIMAL, F("x") + True, "a Decimal or an integer can be added, not True"),
        (DECIMAL, F("x") + 0.1, "a Decimal or an integer can be added, not 0.1"),
        (DECIMAL, Decimal("NaN"), "NaN"),
        (WIDE, F("x") + Decimal("92233720368547758.08"), "beyond what the column"),
        (REFERENCE, 2**63, "less than or equal to 9223372036854775807"),
        (REFERENCE, "x", "must be an integer"),
        (REFERENCE, Article(), "cannot be None"),
        (REFERENCE, User(pk=1), "refers to a Article, not to"),
        (BY_SLUG, "s" * 101, "at most 100 characters"),
        (MOMENT, F("x") + 1, "a timedelta can be added"),
        (MOMENT, Now(), "takes a value, F('x') ± n"),
        (field(models.CharField, max_length=2), "abc", "at most 2 characters"),
        (field(models.CharField, max_length=2), F("x") + "a", "nothing can be added to a CharField"),
        (field(models.FloatField), F("x") + 1.0, "nothing can be added to a FloatField"),
    ],
)
def test_an_unsupported_change_is_refused_at_the_call(column: Any, change: Any, message: str) -> None:
    """With the reason, at the call and not in the worker."""
    with pytest.raises(WriteBehindRefusedError, match=message.replace("(", r"\(").replace(")", r"\)")):
        encode_change(column, change)


def test_wide_decimals_are_decoded_exactly() -> None:
    """Python's own context would round them to 28."""
    value = Decimal("-12345678901234567890123456789012.34")
    assert encoding_of(WIDE).decode(encoding_of(WIDE).encode(value)) == value


def test_a_foreign_key_has_no_delta() -> None:
    """A foreign key is a value."""
    assert encoding_of(REFERENCE).encode_delta is None


def test_an_unknown_kind_of_field_is_refused() -> None:
    """Its encoding is not guessed."""
    with pytest.raises(WriteBehindRefusedError, match="write-behind cannot encode a Field"):
        encoding_of(field(models.Field))


def test_a_value_that_no_node_takes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node would close the connection, and the caller would not know whether the value is queued."""
    assert expressions.MAX_BYTES == 512 * 2**20
    monkeypatch.setattr(expressions, "MAX_BYTES", 9)
    text = field(models.TextField)
    assert encode_change(text, "x" * 8) == (PUT, b"=xxxxxxxx")
    with pytest.raises(WriteBehindRefusedError, match="the value has 9 bytes, and a queue node takes 9"):
        encode_change(text, "x" * 9)
