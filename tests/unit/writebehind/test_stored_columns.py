"""The columns of a table, as far as no database is needed."""

from __future__ import annotations

import pytest
from django.db import models

from cachebackend.writebehind.stored_columns import StoredColumn, _code, is_declared_type
from tests.shop.models import Meter


@pytest.mark.parametrize(
    ("type_", "modifier", "code"),
    [
        ("numeric", (12 << 16 | 4) + 4, "n4"),
        ("numeric", -1, None),
        ("integer", -1, "i"),
        ("character varying", 54, "s"),
        ("public.citext", -1, "s"),
        ("money", -1, "full"),
        ("name", -1, "full"),
        ("timestamp with time zone", -1, "ts"),
        ("timestamp with time zone", 6, "ts"),
        ("timestamp with time zone", 0, "full"),
        ("time without time zone", 3, "full"),
        ("interval", -1, "dur"),
        ("interval", 0x7FFF0006, "dur"),
        ("interval", 0x7FFF0000, "full"),
        ("interval", 0x0004FFFF, "full"),
        ("json", -1, None),
    ],
)
def test_a_type_of_postgres_has_the_code_of_its_columns_encoding(
    type_: str, modifier: int, code: str | None
) -> None:
    """One that may round a value has its own name instead, as times without microseconds have."""
    assert _code("b", type_, "full", modifier) == code


def test_an_enum_holds_its_texts_exactly() -> None:
    """It refuses others."""
    assert _code("e", "mood", "mood", -1) is None


@pytest.mark.parametrize(
    ("declared", "full_type", "is_declared"),
    [
        ("varchar(5)", "character varying(5)", True),
        ("varchar(9)", "character varying(5)", False),
        ("char(5)", "character(5)", True),
        ("numeric(9, 2)", "numeric(9,2)", True),
        ("bigint", "integer", False),
        ("integer", "bigint", False),
        ("timestamp with time zone", "timestamp with time zone", True),
    ],
)
def test_a_column_has_the_type_that_its_field_declares(
    declared: str, full_type: str, is_declared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django and Postgres write the same type in different ways."""
    field = Meter._meta.get_field("level")
    assert isinstance(field, models.Field)
    monkeypatch.setattr(field, "db_type", lambda _: declared)
    stored = {"level": StoredColumn("", full_type, None)}
    assert is_declared_type(field, "default", stored) == is_declared
