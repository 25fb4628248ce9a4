"""A row merged with its queued writes, as Postgres will compute it when they are drained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from django.db import models, router

from cachebackend.errors import WriteBehindDamagedError
from cachebackend.interrupts import raise_interrupt
from cachebackend.protocol.queue.pending_writes import PendingFields
from cachebackend.writebehind.changes import MARKER, Rows, split_field
from cachebackend.writebehind.conversion import convert, decode_change
from cachebackend.writebehind.encoding import Encoding, encoding_of
from cachebackend.writebehind.expressions import AT_MOST, BOUNDS, DELTA, PUT
from cachebackend.writebehind.queued_columns import mark_queued

__all__ = ["merged_row"]

#: The changes of one column: for each kind its encoded value.
Kinds = dict[bytes, bytes]
Field: TypeAlias = "models.Field[Any, Any]"


def merged_row(
    rows: Rows,
    row: bytes,
    pk: Any,
    instance: models.Model | None,
    batches: Sequence[PendingFields],
) -> models.Model | None:
    """Return a row as it will be when some batches are drained; None if it will not exist.

    Args:
        rows: The row's model.
        row: The row's key in the queue.
        pk: The row's primary key.
        instance: The row in the database, which is changed; None if it does not exist.
        batches: What the queues hold of it, in order of their drains.

    Raises:
        WriteBehindDamagedError: A batch holds bytes that no write puts there.
    """
    columns = {str(field.column): field for field in rows.columns}
    queued: set[str] = set()
    for batch in batches:
        marker = batch.fields.get(row + b"\0" + MARKER)
        if marker in {b"x", b"r"}:
            instance = None
        if marker in {b"c", b"r"}:
            if instance is None:
                instance = rows.model(pk=pk)
                instance._state.adding = False
                instance._state.db = router.db_for_write(rows.model)
            elif not _is_repeated(pk, instance, _changes(pk, batch, columns)):
                break  # the creation will be parked, and all later writes behind it
        if instance is not None:
            for field, kinds in _changes(pk, batch, columns).items():
                value = getattr(instance, field.attname)
                with _reading(field, pk):
                    setattr(instance, field.attname, _changed(encoding_of(field), value, kinds))
                queued.add(field.attname)
    if instance is not None:
        mark_queued(instance, queued)
    return instance


@contextmanager
def _reading(field: Field, pk: Any) -> Iterator[None]:
    """Raise any error of the block as one of what is queued of a field."""
    try:
        yield
    except Exception as error:  # a queue may hold any bytes, which decode to any error
        raise_interrupt(error)
        message = f"what is queued of {field}, row {pk}, cannot be read: {error}"
        raise WriteBehindDamagedError(message) from error


def _changes(pk: Any, batch: PendingFields, columns: Mapping[str, Field]) -> dict[Field, Kinds]:
    """Return a batch's changes of the columns that this process knows, in their present encodings.

    A newer version of the code may have queued other columns. The drain converts in the same way.
    """
    by_column: dict[str, Kinds] = {}
    for name, value in batch.fields.items():
        _, column, kind = split_field(name)
        if kind != MARKER and column in columns:
            by_column.setdefault(column, {})[kind] = value
    changes: dict[Field, Kinds] = {}
    for column, kinds in by_column.items():
        field = columns[column]
        encoding = encoding_of(field)
        code = batch.encodings.get(column, encoding.code)
        with _reading(field, pk):
            changes[field] = kinds if code == encoding.code else _converted(kinds, code, encoding)
    return changes


def _converted(kinds: Kinds, code: str, encoding: Encoding) -> Kinds:
    return {kind: convert(encoded, kind, code, encoding) for kind, encoded in kinds.items()}


def _is_repeated(pk: Any, instance: models.Model, changes: Mapping[Field, Kinds]) -> bool:
    """Return whether a batch creates a row that exists with the same values: the creation was sent twice."""
    for field, kinds in changes.items():
        with _reading(field, pk):
            if PUT in kinds and _comparable(getattr(instance, field.attname)) != _comparable(
                decode_change(encoding_of(field), PUT, kinds[PUT])
            ):
                return False
    return True


def _comparable(value: Any) -> Any:
    """Return a value that is equal where Postgres' are: to Python ``True`` is 1, also in JSON."""
    if isinstance(value, dict):
        return {key: _comparable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_comparable(each) for each in value]
    return (bool, value) if isinstance(value, bool) else value


def _changed(encoding: Encoding, value: Any, kinds: Kinds) -> Any:
    """Return a value after a batch's changes, as Postgres computes it: NULL plus anything is NULL."""
    if PUT in kinds:
        value = decode_change(encoding, PUT, kinds[PUT])
    if DELTA in kinds and value is not None:
        value = encoding.add(value, decode_change(encoding, DELTA, kinds[DELTA]))
    for kind in BOUNDS:
        if kind in kinds:
            bound, choose = decode_change(encoding, kind, kinds[kind]), min if kind == AT_MOST else max
            value = bound if value is None else choose(value, bound)
    return value
