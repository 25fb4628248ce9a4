"""A batch as it is read from the queue: rows grouped by what is done to them.

A batch has many rows and few columns, and most rows change the same columns. So it is stored by
column: one list of values for each, and no object for a row until a single row is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from django.db import models

from cachebackend.errors import WriteBehindDamagedError
from cachebackend.interrupts import raise_interrupt
from cachebackend.writebehind.changes import MARKER, SEPARATOR, split_field
from cachebackend.writebehind.conversion import Change, convert_columns
from cachebackend.writebehind.encoding import Encoding, encoding_of
from cachebackend.writebehind.expressions import PUT

__all__ = [
    "CREATED",
    "DELETED",
    "MARKERS",
    "BatchRow",
    "Change",
    "RowGroup",
    "Shape",
    "decode_keys",
    "group_rows",
    "read_batch",
    "rows_of",
]

#: All changes of a row, sorted.
Shape: TypeAlias = tuple[Change, ...]
#: The markers of rows that are deleted, and of rows that are created.
DELETED, CREATED = frozenset({b"x", b"r"}), frozenset({b"c", b"r"})
MARKERS = DELETED | CREATED
_MARKER_CHANGE: Change = ("", MARKER)


class BatchRow(NamedTuple):
    """What a batch does to one row.

    Attributes:
        pk: The row's primary key.
        marker: ``c``: it is created; ``x``: deleted; ``r``: deleted and created; empty: changed.
        changes: For each column and kind the encoded value.
    """

    pk: Any
    marker: bytes
    changes: Mapping[Change, bytes]


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows with the same marker and shape, ordered by their keys.

    Attributes:
        marker: As of a ``BatchRow``.
        shape: The columns that change, and how.
        pks: The rows' primary keys.
        columns: For each change of the shape the rows' encoded values.
    """

    marker: bytes
    shape: Shape
    pks: Sequence[Any]
    columns: Sequence[Sequence[bytes]]

    def chunks(self, size: int, max_bytes: int) -> Iterator[RowGroup]:
        """Yield the same rows in groups of at most ``size`` rows and about ``max_bytes`` encoded bytes.

        A row with more bytes is a group of its own. A group without rows yields itself.
        """
        if len(self.pks) <= 1 or (len(self.pks) <= size and self._bytes() <= max_bytes):
            yield self
            return
        step = min(size, (len(self.pks) + 1) // 2)
        for start in range(0, len(self.pks), step):
            end = start + step
            columns = [column[start:end] for column in self.columns]
            part = RowGroup(self.marker, self.shape, self.pks[start:end], columns)
            yield from part.chunks(size, max_bytes)

    def _bytes(self) -> int:
        return sum(sum(map(len, column)) for column in self.columns)

    def only(self, pks: Collection[Any]) -> RowGroup:
        """Return the group with those of its rows that have one of these keys."""
        kept = [index for index, pk in enumerate(self.pks) if pk in pks]
        columns = [[column[index] for index in kept] for column in self.columns]
        return RowGroup(self.marker, self.shape, [self.pks[index] for index in kept], columns)

    def without_rows(self) -> RowGroup:
        """Return a group without rows, which puts the same columns."""
        shape = tuple((column, PUT) for column in dict.fromkeys(column for column, _ in self.shape))
        return RowGroup(self.marker, shape, [], [[] for _ in shape])


def read_batch(
    model: type[models.Model], fields: Mapping[bytes, bytes], encodings: Mapping[str, str]
) -> list[RowGroup]:
    """Return the rows of a batch, their values in the present encodings of their columns.

    Args:
        model: The rows' model.
        fields: The fields of the batch's hash.
        encodings: For each column the code of the encoding of its values.

    Raises:
        WriteBehindDamagedError: The name of a field or a marker is not valid.
    """
    by_name: dict[bytes, dict[bytes, bytes]] = {}
    for name, value in fields.items():
        key, _, rest = name.partition(SEPARATOR)
        column = by_name.get(rest)
        if column is None:
            split_field(name)  # raises if the name is not valid
            column = by_name[rest] = {}
        column[key] = value
    columns: dict[Change, dict[bytes, bytes]] = {}
    for rest, column in by_name.items():  # several damaged names may decode to the same column
        columns.setdefault(split_field(SEPARATOR + rest)[1:], {}).update(column)
    markers = columns.pop(_MARKER_CHANGE, {})
    for marker in markers.values():
        if marker not in MARKERS:
            message = f"{marker!r} is not a valid marker of a row"
            raise WriteBehindDamagedError(message)
    columns = convert_columns(model, columns, encodings)
    encoding = encoding_of(model._meta.pk)
    return [
        _ordered(
            marker,
            shape,
            decode_keys(encoding, keys),
            [[columns[change][key] for key in keys] for change in shape],
        )
        for (marker, shape), keys in _keys_by_shape(columns, markers).items()
    ]


def rows_of(batch: Iterable[RowGroup]) -> list[BatchRow]:
    """Return the rows of a batch one by one, ordered by their keys."""
    rows: list[BatchRow] = []
    for group in batch:
        values = zip(*group.columns, strict=True) if group.shape else iter(() for _ in group.pks)
        rows += [
            BatchRow(pk, group.marker, dict(zip(group.shape, own, strict=True)))
            for pk, own in zip(group.pks, values, strict=True)
        ]
    rows.sort(key=itemgetter(0))
    return rows


def group_rows(rows: Iterable[BatchRow]) -> list[RowGroup]:
    """Return rows as a batch."""
    groups: dict[tuple[bytes, Shape], list[BatchRow]] = {}
    for row in rows:
        groups.setdefault((row.marker, tuple(sorted(row.changes))), []).append(row)
    return [
        _ordered(
            marker,
            shape,
            [row.pk for row in group],
            [[row.changes[change] for row in group] for change in shape],
        )
        for (marker, shape), group in groups.items()
    ]


def _ordered(marker: bytes, shape: Shape, pks: list[Any], columns: list[list[bytes]]) -> RowGroup:
    """Return a group with its rows in the order of their keys."""
    order = sorted(range(len(pks)), key=pks.__getitem__)
    return RowGroup(
        marker,
        shape,
        [pks[index] for index in order],
        [[column[index] for index in order] for column in columns],
    )


def _keys_by_shape(
    columns: Mapping[Change, Mapping[bytes, bytes]], markers: Mapping[bytes, bytes]
) -> dict[tuple[bytes, Shape], list[bytes]]:
    """Return the encoded keys of the rows, by marker and shape."""
    keys = list(dict.fromkeys(chain(markers, *columns.values())))
    changes = tuple(sorted(columns))
    if keys and not markers and all(len(column) == len(keys) for column in columns.values()):
        return {(b"", changes): keys}
    keys_by_shape: dict[tuple[bytes, Shape], list[bytes]] = {}
    for key in keys:
        marker = markers.get(key, b"")
        # A row that is only deleted needs none of its columns; an earlier release left some queued
        of_row = () if marker == b"x" else changes
        shape = tuple(change for change in of_row if key in columns[change])
        keys_by_shape.setdefault((marker, shape), []).append(key)
    return keys_by_shape


def decode_keys(encoding: Encoding, keys: list[bytes]) -> list[Any]:
    """Return the primary keys that are encoded so.

    Raises:
        WriteBehindDamagedError: Another key would be encoded so, or none.
    """
    try:
        pks = [encoding.decode(key) for key in keys]
        encoded = [encoding.encode(pk) for pk in pks]
    except (ValueError, ArithmeticError) as error:
        raise_interrupt(error)
        encoded = []
    if encoded == keys:
        return pks
    if len(keys) > 1:
        return [pk for key in keys for pk in decode_keys(encoding, [key])]
    message = f"{keys[0]!r} is not an encoded primary key"  # Python's int() also accepts "+1" and "1_0"
    raise WriteBehindDamagedError(message)
