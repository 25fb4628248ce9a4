"""A batch grouped by shape, compared with the rows that it was made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachebackend.errors import WriteBehindDamagedError
from cachebackend.writebehind.batch import BatchRow, group_rows, read_batch, rows_of
from tests.shop.models import Tag

changes = st.dictionaries(
    st.tuples(st.sampled_from(["count", "level", "label"]), st.sampled_from([b"p", b"d", b"g"])),
    st.binary(max_size=3),
    min_size=1,
)
batches = st.dictionaries(
    st.integers(-3, 12),
    st.tuples(st.just(b""), changes)
    | st.tuples(st.just(b"x"), st.just({}))
    | st.tuples(st.sampled_from([b"c", b"r"]), changes),
)


def fields_of(pk: int, marker: bytes, changes: dict[tuple[str, bytes], bytes]) -> dict[bytes, bytes]:
    named = {("", b"m"): marker} | changes if marker else changes
    return {b"%d\0%b\0%b" % (pk, column.encode(), kind): value for (column, kind), value in named.items()}


@given(batches, st.randoms(use_true_random=False))
def test_every_row_is_read_whatever_order_its_fields_come_in(batch, random) -> None:  # type: ignore[no-untyped-def]
    """Grouping the same rows makes the same batch."""
    fields = [item for pk, (marker, each) in batch.items() for item in fields_of(pk, marker, each).items()]
    random.shuffle(fields)
    read = read_batch(Tag, dict(fields), {})
    rows = rows_of(read)
    assert rows == [BatchRow(pk, *batch[pk]) for pk in sorted(batch)]
    assert {(group.marker, group.shape): group for group in group_rows(rows)} == {
        (group.marker, group.shape): group for group in read
    }
    assert all(list(group.pks) == sorted(group.pks) for group in read)


def test_columns_with_equally_damaged_names_lose_no_row() -> None:
    """A value that cannot be decoded is parked, not lost."""
    rows = rows_of(read_batch(Tag, {b"1\0\xff\0p": b"=1", b"2\0\xfe\0p": b"=2"}, {}))
    assert [row.pk for row in rows] == [1, 2]


def test_rows_are_yielded_in_chunks() -> None:
    """Each row keeps its values; the last chunk is shorter. Large values make chunks of fewer rows."""
    [group] = read_batch(Tag, {b"%d\0count\0d" % pk: b"%d" % -pk for pk in range(5)}, {})
    chunks = list(group.chunks(2, 100))
    assert [list(chunk.pks) for chunk in chunks] == [[0, 1], [2, 3], [4]]
    assert [row for chunk in chunks for row in rows_of([chunk])] == rows_of([group])
    assert [list(chunk.pks) for chunk in group.chunks(9, 5)] == [[0, 1, 2], [3, 4]]
    assert [list(chunk.pks) for chunk in group.chunks(9, 0)] == [[0], [1], [2], [3], [4]]
    empty = group.without_rows()
    assert empty.shape == (("count", b"p"),)
    assert list(empty.chunks(2, 100)) == [empty]
    assert rows_of([empty]) == []


def test_some_rows_of_a_group_are_a_group() -> None:
    """Each row keeps its values."""
    [group] = read_batch(Tag, {b"%d\0count\0d" % pk: b"%d" % -pk for pk in range(5)}, {})
    assert rows_of([group.only({1, 3, 9})]) == [row for row in rows_of([group]) if row.pk in {1, 3}]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (b"+1\0count\0d", b"1", r"b'\+1' is not an encoded primary key"),
        (b"1_0\0count\0d", b"1", "b'1_0' is not an encoded primary key"),
        (b"x\0count\0d", b"1", "b'x' is not an encoded primary key"),
        (b"1\0count\0?", b"1", "names no row, column and kind"),
        (b"1\0count", b"1", "names no row, column and kind"),
        (b"1\0\0m", b"?", r"b'\?' is not a valid marker of a row"),
    ],
)
def test_a_damaged_field_is_named(field: bytes, value: bytes, message: str) -> None:
    """Among fields that are valid."""
    fields = {b"2\0count\0d": b"1", field: value, b"3\0level\0p": b"=1"}
    with pytest.raises(WriteBehindDamagedError, match=message):
        read_batch(Tag, fields, {})
