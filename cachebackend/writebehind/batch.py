"""A batch as it is read from the queue: what is done to which rows.

It has many rows and few columns, and most rows are alike, so it is taken apart by columns:
a list of values for each, and no object for any row, until a row must be looked at alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from django.db import models

from cachebackend.errors import WriteBehindDamagedError
from cachebackend.writebehind.changes import MARKER, SEPARATOR, split_field
from cachebackend.writebehind.wire import Wire, wire_of

__all__ = ["CREATED", "DELETED", "Alike", "BatchRow", "Change", "Shape", "alike", "read_batch", "rows_of"]

#: A column and the kind of what is done to it.
Change: TypeAlias = tuple[str, bytes]
#: All that is done to a row's columns, sorted.
Shape: TypeAlias = tuple[Change, ...]
#: The markers of rows that are deleted, and of those that are created.
DELETED, CREATED = frozenset({b"x", b"r"}), frozenset({b"c", b"r"})
_MARKERS = DELETED | CREATED
_MARKED: Change = ("", MARKER)


class BatchRow(NamedTuple):
    """What a batch does to one row.

    Attributes:
        pk: Its primary key.
        marker: ``c``: it is created; ``x``: deleted; ``r``: both; empty: changed.
        changes: For each column and kind the value as the queue has it.
    """

    pk: Any
    marker: bytes
    changes: Mapping[Change, bytes]


@dataclass(frozen=True, slots=True)
class Alike:
    """Rows to which the same is done, ordered by their keys.

    Attributes:
        marker: As of a ``BatchRow``.
        shape: The columns that change, and how.
        pks: The rows' primary keys.
        columns: For each change of the shape the rows' values as the queue has them.
    """

    marker: bytes
    shape: Shape
    pks: Sequence[Any]
    columns: Sequence[Sequence[bytes]]

    def chunks(self, size: int) -> Iterator[Alike]:
        """Yield the same rows, so many at a time."""
        for at in range(0, len(self.pks), size):
            end = at + size
            yield Alike(
                self.marker, self.shape, self.pks[at:end], [column[at:end] for column in self.columns]
            )


def read_batch(model: type[models.Model], fields: Mapping[bytes, bytes]) -> list[Alike]:
    """Return the rows of a batch.

    Args:
        model: The rows' model.
        fields: The hash that the batch is.

    Raises:
        WriteBehindDamagedError: A field names no row of the model, or nothing to be done to one.
    """
    by_name: dict[bytes, dict[bytes, bytes]] = {}
    for name, value in fields.items():
        key, _, named = name.partition(SEPARATOR)
        column = by_name.get(named)
        if column is None:
            split_field(name)  # refuses what is none
            column = by_name[named] = {}
        column[key] = value
    columns: dict[Change, dict[bytes, bytes]] = {}
    for named, column in by_name.items():  # names that are damaged may be read alike
        columns.setdefault(split_field(SEPARATOR + named)[1:], {}).update(column)
    markers = columns.pop(_MARKED, {})
    for marker in markers.values():
        if marker not in _MARKERS:
            message = f"{marker!r} is nothing to be done to a row"
            raise WriteBehindDamagedError(message)
    wire = wire_of(model._meta.pk)
    return [
        _ordered(
            marker, shape, _pks(wire, keys), [[columns[change][key] for key in keys] for change in shape]
        )
        for (marker, shape), keys in _keys_alike(columns, markers).items()
    ]


def rows_of(batch: Iterable[Alike]) -> list[BatchRow]:
    """Return each row of a batch, ordered by their keys."""
    rows: list[BatchRow] = []
    for same in batch:
        values = zip(*same.columns, strict=True) if same.shape else iter(() for _ in same.pks)
        rows += [
            BatchRow(pk, same.marker, dict(zip(same.shape, own, strict=True)))
            for pk, own in zip(same.pks, values, strict=True)
        ]
    rows.sort(key=itemgetter(0))
    return rows


def alike(rows: Iterable[BatchRow]) -> list[Alike]:
    """Return a batch of some rows."""
    found: dict[tuple[bytes, Shape], list[BatchRow]] = {}
    for row in rows:
        found.setdefault((row.marker, tuple(sorted(row.changes))), []).append(row)
    return [
        _ordered(
            marker,
            shape,
            [row.pk for row in same],
            [[row.changes[change] for row in same] for change in shape],
        )
        for (marker, shape), same in found.items()
    ]


def _ordered(marker: bytes, shape: Shape, pks: list[Any], columns: list[list[bytes]]) -> Alike:
    """Return rows, put in the order of their keys."""
    order = sorted(range(len(pks)), key=pks.__getitem__)
    return Alike(
        marker, shape, [pks[at] for at in order], [[column[at] for at in order] for column in columns]
    )


def _keys_alike(
    columns: Mapping[Change, Mapping[bytes, bytes]], markers: Mapping[bytes, bytes]
) -> dict[tuple[bytes, Shape], list[bytes]]:
    """Return the names of the rows by what is done to them."""
    keys = list(dict.fromkeys(chain(markers, *columns.values())))
    changes = tuple(sorted(columns))
    if keys and not markers and all(len(column) == len(keys) for column in columns.values()):
        return {(b"", changes): keys}
    found: dict[tuple[bytes, Shape], list[bytes]] = {}
    for key in keys:
        shape = tuple(change for change in changes if key in columns[change])
        found.setdefault((markers.get(key, b""), shape), []).append(key)
    return found


def _pks(wire: Wire, keys: list[bytes]) -> list[Any]:
    """Return the primary keys that are named so."""
    try:
        pks = [wire.load(key) for key in keys]
        named = [wire.dump(pk) for pk in pks]
    except (ValueError, ArithmeticError):
        named = []
    if named == keys:
        return pks
    if len(keys) > 1:
        return [pk for key in keys for pk in _pks(wire, [key])]
    message = f"{keys[0]!r} is no primary key"  # Python reads "+1" and "1_0" too
    raise WriteBehindDamagedError(message)
