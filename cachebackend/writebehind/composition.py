"""Composition: two writes of a row, one after the other, as one write with the same effect."""

from __future__ import annotations

from collections.abc import Mapping

from cachebackend.interrupts import raise_interrupt
from cachebackend.writebehind.batch import DELETED, BatchRow
from cachebackend.writebehind.conversion import split_code
from cachebackend.writebehind.expressions import AT_LEAST, AT_LEAST_LATE, AT_MOST, BOUNDS, DELTA, KINDS, PUT

__all__ = ["compose"]

#: The changes of one column: for each kind its encoded value.
Kinds = Mapping[bytes, bytes]
#: The numbers that a queue node and a column of sums accept.
_INT64 = range(-(2**63), 2**63)


def compose(earlier: BatchRow, later: BatchRow) -> BatchRow | None:
    """Return one write with the effect of both; None if that is not exact, or not simple.

    The rules are those of ``fold.lua``, which merges writes into a batch.
    """
    if later.marker in DELETED:
        return later
    if later.marker:  # the creation of a row after changes of the row
        return later._replace(marker=b"r") if earlier.marker == b"x" else None
    if earlier.marker == b"x":
        return earlier
    if any(split_code(column)[1] for column, _ in (*earlier.changes, *later.changes)):
        return None  # the column's type has changed, so the values may have two encodings
    before, after = _by_column(earlier), _by_column(later)
    columns: dict[str, Kinds] = {**before}
    for column, kinds in after.items():
        composed = _compose_column(before.get(column, {}), kinds)
        if composed is None:
            return None
        columns[column] = composed
    changes = {(column, kind): value for column, kinds in columns.items() for kind, value in kinds.items()}
    return earlier._replace(changes=changes)


def _by_column(row: BatchRow) -> dict[str, dict[bytes, bytes]]:
    columns: dict[str, dict[bytes, bytes]] = {}
    for (column, kind), value in row.changes.items():
        columns.setdefault(column, {})[kind] = value
    return columns


def _compose_column(earlier: Kinds, later: Kinds) -> Kinds | None:
    if PUT in later:
        return later
    if not {*earlier, *later} <= {*KINDS}:
        return None
    # A write applies its lower bound before its upper bound, and for NULL the order matters
    if (AT_LEAST in later and AT_MOST in earlier) or (AT_MOST in later and AT_LEAST in earlier):
        return None
    if AT_LEAST_LATE in later or (AT_LEAST_LATE in earlier and not later.keys().isdisjoint(BOUNDS)):
        return None
    try:
        sums = {kind: int(value) for kind, value in earlier.items() if kind != PUT}
        if DELTA in later:  # what is added after a bound moves the bound
            sums = {kind: value + int(later[DELTA]) for kind, value in ({DELTA: 0} | sums).items()}
        for kind, choose in ((AT_LEAST, max), (AT_MOST, min)):
            if kind in later:
                bound = int(later[kind])
                sums[kind] = choose(sums.get(kind, bound), bound)
    except ValueError as error:  # a queue may hold any bytes
        raise_interrupt(error)
        return None
    if any(value not in _INT64 for value in sums.values()):
        return None
    return {**earlier, **{kind: b"%d" % value for kind, value in sums.items()}}
