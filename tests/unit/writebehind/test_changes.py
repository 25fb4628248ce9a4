"""Writes of rows, encoded for the queue without asking the database."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db.models import F

from cachebackend.errors import WriteBehindDamagedError, WriteBehindRefusedError
from cachebackend.writebehind.changes import Rows, split_field
from tests.shop.models import Book, Line, Meter

PK = uuid.UUID(int=7)
ROW = PK.hex.encode() + b"\0"


def rows_of(*fields: str, counters: tuple[str, ...] = ()) -> Rows:
    return Rows(Meter, fields or ("count", "level", "seen"), counters)


def test_a_change_is_a_field_for_each_column() -> None:
    """Named by row, column and kind; the column is the database's name."""
    write = rows_of().change(PK, {"count": F("count") + 2, "level": 5, "seen": None})
    assert (write.operation, write.row) == (b"u", ROW)
    assert write.changes == (
        (ROW + b"Odd Name\0", b"d", b"2"),
        (ROW + b"level\0", b"p", b"=5"),
        (ROW + b"seen\0", b"p", b"0"),
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "was given nothing to change"),
        ({"data": 1}, "Meter.data is not written behind"),
        ({"count": 1}, "Meter.count is a counter"),
        ({"tag": 1, "tag_id": 2}, "is given twice, once by its column's name"),
    ],
)
def test_a_change_that_is_not_valid_is_refused(changes: dict[str, Any], says: str) -> None:
    """Before anything is sent."""
    rows = rows_of("count", "level", "tag", counters=("count",))
    with pytest.raises(WriteBehindRefusedError, match=says):
        rows.change(PK, changes)


def test_a_creation_has_every_column_with_its_default() -> None:
    """And the row as it will be, its key as the database returns it."""
    write, row = rows_of().create({"pk": str(PK), "level": 3})
    assert (write.operation, write.row) == (b"c", ROW)
    assert {name.split(b"\0")[1] for name, _, _ in write.changes} == {
        b"Odd Name", b"total", b"level", b"seen", b"label", b"data", b"tag_id",
    }  # fmt: skip
    assert isinstance(row, Meter)
    assert (row.pk, row.level, row.count) == (PK, 3, 0)
    assert not row._state.adding


def test_a_deletion_names_every_column() -> None:
    """So that what a batch holds of them is removed."""
    write = rows_of().delete(PK)
    assert (write.operation, len(write.changes)) == (b"x", 7)


def test_a_model_with_parents_is_neither_created_nor_deleted() -> None:
    """Its rows are in several tables."""
    rows = Rows(Book, ["pages"], ())
    with pytest.raises(WriteBehindRefusedError, match="Product"):
        rows.create({"pages": 1})
    with pytest.raises(WriteBehindRefusedError, match="Product"):
        rows.delete(1)


@pytest.mark.parametrize("pk", [None, "no uuid", object(), 1.5])
def test_a_key_that_the_model_cannot_have_is_refused(pk: Any) -> None:
    """Without asking the database."""
    with pytest.raises(WriteBehindRefusedError, match="has no primary key like"):
        rows_of().row(pk)


def test_a_row_has_always_the_same_partition() -> None:
    """So its writes stay in order; rows are spread over all partitions."""
    rows = rows_of()
    keys = [rows.row(uuid.UUID(int=number)) for number in range(200)]
    numbers = [rows.partition(key, 8).number for key in keys]
    assert numbers == [rows.partition(key, 8).number for key in keys]
    assert set(numbers) == set(range(8))
    assert rows.partition(ROW, 8).label == "shop.meter"


def test_every_field_that_a_batch_may_hold_of_a_row_is_named() -> None:
    """The marker, and five kinds of change for each column."""
    names = rows_of().names(ROW)
    assert len(names) == len(set(names)) == 1 + 5 * 7
    assert names[0] == ROW + b"\0m"
    assert {split_field(name)[0] for name in names} == {PK.hex.encode()}


def test_faults_name_the_fields_that_cannot_be_written_behind() -> None:
    """The system check reports them."""
    faults = list(rows_of("count", "id", "no_such").faults())
    assert len(faults) == 2
    assert "'id'" in faults[0]
    assert "'no_such'" in faults[1]
    with pytest.raises(ImproperlyConfigured, match="counters must be among fields"):
        rows_of("count", counters=("level",))


def test_a_composite_key_is_refused() -> None:
    """At each call, and by the system check."""
    rows = Rows(Line, ["text"], ())
    [fault] = rows.faults()
    assert fault == "Line has a composite primary key; write its rows with save()"
    with pytest.raises(WriteBehindRefusedError, match="has a composite primary key"):
        rows.change((1, 2), {"text": "x"})


@pytest.mark.parametrize(
    ("counters", "changes", "expected"),
    [(("count",), ["count"], True), (("count",), ["count", "level"], False), ((), ["count"], False)],
)
def test_only_counters_may_be_applied_in_any_order(
    counters: tuple[str, ...], changes: list[str], expected: bool
) -> None:
    """All of a write, or it waits its turn."""
    assert rows_of(counters=counters).are_counters(changes) is expected


@pytest.mark.parametrize(
    ("field", "parts"),
    [(b"7\0count\0p", (b"7", "count", b"p")), (b"7\0\0m", (b"7", "", b"m"))],
)
def test_a_field_is_split_into_row_column_and_kind(field: bytes, parts: Any) -> None:
    """The marker has no column."""
    assert split_field(field) == parts


@pytest.mark.parametrize("field", [b"7", b"7\0a", b"7\0a\0z", b"7\0\0p", b"7\0a\0m", b"7\0a\0p\0"])
def test_a_field_that_is_not_valid_is_damaged(field: bytes) -> None:
    """No write puts it there."""
    with pytest.raises(WriteBehindDamagedError):
        split_field(field)
