"""The tables of other versions of the code, as far as no database is needed."""

from __future__ import annotations

import pytest

from cachebackend.writebehind.stored_columns import StoredColumn
from cachebackend.writebehind.versions import _is_held, columns_fault
from tests.shop.models import Meter

KEY = {"id": StoredColumn("uuid", "uuid", "u")}


def table(**codes: str | None) -> dict[str, StoredColumn]:
    """Return a table with columns of these encodings, and the key."""
    return KEY | {name: StoredColumn("", "", code) for name, code in codes.items()}


@pytest.mark.parametrize(
    ("code", "stored_code", "is_held"),
    [
        ("i", "n2", True),
        ("n2", "n4", True),
        ("n4", "n2", False),
        ("n2", "i", False),
        ("n0", "i", True),
        ("i", "f", False),
        ("f", "n4", False),
        ("ts", "d", False),
        ("s", "u", True),
        ("s", "n2", False),
        ("u", "s", False),
    ],
)
def test_a_column_holds_the_values_of_an_encoding(code: str, stored_code: str, is_held: bool) -> None:
    """Exactly, or Postgres refuses them: it rounds none."""
    assert _is_held(code, stored_code) == is_held


def test_a_write_waits_while_its_columns_are_not_those_of_the_table() -> None:
    """A column that only one of them has, another type, or another type of the key."""
    assert columns_fault(Meter, ["level"], table(level="i")) is None
    assert columns_fault(Meter, ["level"], table(level=None)) is None
    assert "in the table a float" in str(columns_fault(Meter, ["level"], table(level="f")))
    assert "a decimal with 4" in str(columns_fault(Meter, ["level\0n4"], table(level="n4")))
    assert "newer code" in str(columns_fault(Meter, ["new\0i"], table(new="i")))
    assert "the migration that adds" in str(columns_fault(Meter, ["level"], table()))
    assert "in the table an integer" in str(columns_fault(Meter, [], {"id": StoredColumn("", "", "i")}))


def test_a_column_that_neither_the_model_nor_the_table_has_does_not_wait() -> None:
    """No deploy and no migration brings it back: its rows are parked."""
    assert columns_fault(Meter, ["gone\0i"], table()) is None
    assert columns_fault(Meter, ["gone\0i"], {}) is None
