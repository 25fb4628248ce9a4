"""Descriptions of what a batch does to a row, by the names of fields and kinds of change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import models

from cachebackend.interrupts import raise_interrupt
from cachebackend.protocol.queue.pending_writes import PendingFields
from cachebackend.writebehind.batch import BatchRow, read_batch, rows_of
from cachebackend.writebehind.changes import Rows
from cachebackend.writebehind.conversion import decode_change, split_code
from cachebackend.writebehind.encoding import encoding_of, encoding_of_code
from cachebackend.writebehind.expressions import AT_LEAST, AT_LEAST_LATE, AT_MOST, DELTA, PUT

__all__ = ["PendingBatch", "describe_row", "pending_batch"]

#: The names of the kinds of change.
_KIND_NAMES = {PUT: "put", DELTA: "add", AT_LEAST: "at_least", AT_MOST: "at_most", AT_LEAST_LATE: "at_least"}


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """What one batch holds of a row.

    Attributes:
        number: The batch's number.
        is_created: Whether the batch creates the row.
        is_deleted: Whether the batch deletes the row; if it does both, it deletes first.
        changes: For each field its kinds of change (``put``, ``add``, ``at_least``,
            ``at_most``) and their values.
    """

    number: int
    is_created: bool
    is_deleted: bool
    changes: dict[str, dict[str, Any]]


def describe_row(model: type[models.Model], row: BatchRow) -> str:
    """Return what a batch does to a row, in one line."""
    parts = {b"c": ["create"], b"x": ["delete"], b"r": ["delete, create"]}.get(row.marker, [])
    for name, kinds in _changes_of(model, row.changes).items():
        parts += [f"{name} {kind} {value!r}" for kind, value in kinds.items()]
    return "; ".join(parts)


def _changes_of(
    model: type[models.Model], changes: Mapping[tuple[str, bytes], bytes]
) -> dict[str, dict[str, Any]]:
    columns = {field.column: field for field in model._meta.local_concrete_fields}
    named: dict[str, dict[str, Any]] = {}
    for (column, kind), encoded in sorted(changes.items()):
        name, code = split_code(column)
        field = columns.get(name)
        value: Any = encoded
        try:
            encoding = encoding_of_code(code) if code else encoding_of(columns[name])
            value = encoding and decode_change(encoding, kind, encoded)
        except Exception as error:  # noqa: BLE001  # what cannot be decoded is shown as the stored bytes
            raise_interrupt(error)
        named.setdefault(name if field is None else field.name, {})[_KIND_NAMES[kind]] = value
    return named


def pending_batch(rows: Rows, batch: PendingFields) -> PendingBatch:
    """Return what a batch holds of a row; the batch has fields of this row only."""
    [row] = rows_of(read_batch(rows.model, batch.fields, batch.encodings))
    is_created, is_deleted = row.marker in {b"c", b"r"}, row.marker in {b"x", b"r"}
    return PendingBatch(batch.number, is_created, is_deleted, _changes_of(rows.model, row.changes))
