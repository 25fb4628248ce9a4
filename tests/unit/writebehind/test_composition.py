"""Two writes composed into one, compared with the two writes applied one after the other."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from cachebackend.writebehind.batch import BatchRow
from cachebackend.writebehind.composition import compose

numbers = st.integers(-4, 4)
kinds = st.fixed_dictionaries({}, optional={b"d": numbers, b"g": numbers, b"l": numbers}).filter(bool)
puts = st.fixed_dictionaries({b"p": st.none() | numbers}, optional={b"d": numbers, b"g": numbers})
columns = st.dictionaries(st.sampled_from("ab"), kinds | puts, min_size=1)
created = st.fixed_dictionaries({"a": puts, "b": puts})
writes = (
    st.tuples(st.just(b""), columns)
    | st.tuples(st.just(b"x"), st.just({}))
    | st.tuples(st.sampled_from([b"c", b"r"]), created)
)
#: A row: the value of each column.
Row = Mapping[str, int | None]


def encoded(write: tuple[bytes, dict[str, dict[bytes, int | None]]]) -> BatchRow:
    marker, columns = write
    changes = {}
    for column, kinds in columns.items():
        for kind, value in kinds.items():
            put = b"0" if value is None else b"=%d" % value
            changes[column, kind] = put if kind == b"p" else b"%d" % (value or 0)
    return BatchRow(1, marker, changes)


def applied(row: Row | None, write: BatchRow) -> Row | None:
    """The row after a write, as Postgres computes it."""
    if write.marker in {b"x", b"r"}:
        row = None
    if write.marker in {b"c", b"r"}:
        row = {"a": None, "b": None}
    if row is None:
        return None
    values = dict(row)
    for (column, kind), encoded in sorted(write.changes.items(), key=lambda item: b"pdgl".index(item[0][1])):
        value = values[column]
        if kind == b"p":
            value = None if encoded == b"0" else int(encoded[1:])
        elif kind == b"d":
            value = None if value is None else value + int(encoded)
        else:
            bound = int(encoded)
            value = bound if value is None else (max if kind == b"g" else min)(value, bound)
        values[column] = value
    return values


@given(writes, writes, st.fixed_dictionaries({"a": st.none() | numbers, "b": numbers}) | st.none())
def test_a_composed_write_has_the_effect_of_both(first, second, row) -> None:  # type: ignore[no-untyped-def]
    """For every row that the first write can be applied to."""
    earlier, later = encoded(first), encoded(second)
    composed = compose(earlier, later)
    if composed is not None and (row is None or earlier.marker != b"c"):
        assert applied(row, composed) == applied(applied(row, earlier), later)


def test_frequent_writes_compose() -> None:
    """Sums, values and bounds in one direction, and deletes, for any number of writes."""
    row = encoded((b"", {"a": {b"d": 1}, "b": {b"g": 3}}))
    for _ in range(3):
        composed = compose(row, encoded((b"", {"a": {b"d": 1}, "b": {b"d": 1, b"g": 2}})))
        assert composed is not None
        row = composed
    assert row.changes == {("a", b"d"): b"4", ("b", b"d"): b"3", ("b", b"g"): b"6"}
    for write in ((b"", {"a": {b"p": 5}}), (b"x", {}), (b"c", {"a": {b"p": 1}}), (b"", {"a": {b"d": 1}})):
        composed = compose(row, encoded(write))  # type: ignore[arg-type]
        assert composed is not None
        row = composed
    assert row == BatchRow(1, b"r", {("a", b"p"): b"=1", ("a", b"d"): b"1"})


def test_what_has_no_exact_composition_is_refused() -> None:
    """Opposite bounds, a creation after changes, sums beyond 64 bits, and values that are not numbers."""
    change = encoded((b"", {"a": {b"g": 1}}))
    assert compose(change, encoded((b"", {"a": {b"l": 1}}))) is None
    assert compose(change, encoded((b"c", {"a": {b"p": 1}}))) is None
    largest = BatchRow(1, b"", {("a", b"d"): b"%d" % (2**63 - 1)})
    assert compose(largest, encoded((b"", {"a": {b"d": 1}}))) is None
    assert compose(BatchRow(1, b"", {("a", b"d"): b"x"}), encoded((b"", {"a": {b"d": 1}}))) is None
    late = BatchRow(1, b"", {("a", b"h"): b"1"})
    assert compose(change, late) is None
    assert compose(late, change) is None
    assert compose(BatchRow(1, b"", {("a\0n2", b"d"): b"1"}), encoded((b"", {"a": {b"d": 1}}))) is None
    assert compose(BatchRow(1, b"", {("a", b"z"): b"1"}), encoded((b"", {"a": {b"d": 1}}))) is None
