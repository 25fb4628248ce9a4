"""Rows merged with what batches hold of them, without a node or a database."""

from __future__ import annotations

import uuid

import pytest

from cachebackend.errors import WriteBehindDamagedError
from cachebackend.protocol.queue.pending_writes import PendingFields
from cachebackend.writebehind.merged_row import merged_row
from tests.shop.models import Meter

PK = uuid.UUID(int=7)
ROW = Meter.behind.rows.row(PK)
COUNT, LEVEL = b"Odd Name", b"level"


def batch(fields: dict[tuple[bytes, bytes], bytes], marker: bytes = b"", **encodings: str) -> PendingFields:
    stored = {ROW + column + b"\0" + kind: value for (column, kind), value in fields.items()}
    if marker:
        stored[ROW + b"\0m"] = marker
    return PendingFields("", 1, stored, encodings)


def merged(instance: Meter | None, *batches: PendingFields) -> Meter | None:
    row = merged_row(Meter.behind.rows, ROW, PK, instance, batches)
    assert row is None or isinstance(row, Meter)
    return row


def test_changes_apply_in_the_order_of_their_batches() -> None:
    """A value replaces the column's, and what is added later counts."""
    row = merged(
        Meter(PK, count=5), batch({(COUNT, b"p"): b"=10"}), batch({(COUNT, b"d"): b"2", (LEVEL, b"g"): b"3"})
    )
    assert row is not None
    assert (row.count, row.level) == (12, 3)


def test_null_plus_a_number_is_null() -> None:
    """As in Postgres; a bound of NULL is the bound."""
    added = merged(Meter(PK), batch({(LEVEL, b"d"): b"2"}))
    bounded = merged(Meter(PK), batch({(LEVEL, b"l"): b"9"}))
    assert added is not None
    assert bounded is not None
    assert (added.level, bounded.level) == (None, 9)


def test_a_deleted_row_is_none_until_it_is_created_again() -> None:
    """Changes of a row that does not exist have no effect."""
    assert merged(Meter(PK, count=5), batch({}, b"x"), batch({(COUNT, b"d"): b"2"})) is None
    again = merged(Meter(PK, count=5), batch({(LEVEL, b"p"): b"=1"}, b"r"))
    assert again is not None
    assert (again.count, again.level, again._state.adding) == (0, 1, False)


def test_writes_behind_a_creation_that_will_be_parked_are_left_out() -> None:
    """The row exists with other values; a creation with the same values was sent twice."""
    later = batch({(COUNT, b"d"): b"2"})
    other = merged(Meter(PK, count=5), batch({(COUNT, b"p"): b"=6"}, b"c"), later)
    same = merged(Meter(PK, count=5), batch({(COUNT, b"p"): b"=5"}, b"c"), later)
    assert other is not None
    assert same is not None
    assert (other.count, same.count) == (5, 7)


def test_a_value_of_an_older_type_is_converted() -> None:
    """As the drain does it."""
    row = merged(Meter(PK), batch({(LEVEL, b"p"): b"=70"}, level="n1"))
    assert row is not None
    assert row.level == 7


def test_bytes_that_no_write_puts_there_raise() -> None:
    """The error names the row and the column."""
    with pytest.raises(WriteBehindDamagedError, match=f"shop.Meter.level, row {PK}, cannot be read"):
        merged(Meter(PK), batch({(LEVEL, b"p"): b"=?"}))


def test_a_boolean_in_json_is_not_a_number() -> None:
    """To Postgres such a creation is another one, and it will be parked."""
    created, later = batch({(b"data", b"p"): b'={"on": [true]}'}, b"c"), batch({(LEVEL, b"p"): b"=5"})
    for data, level in (({"on": [1]}, None), ({"on": [True]}, 5)):
        row = merged(Meter(PK, data=data), created, later)
        assert row is not None
        assert row.level == level
