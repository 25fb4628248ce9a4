"""The SQL of one batch: rows copied into a temporary table, then one UPDATE for each shape.

A shape is the set of columns that a row changes and how. Rows of one shape share a
statement; a batch of a counter has one shape, however many rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from xxhash import xxh3_64_hexdigest

from cachebackend.errors import WriteBehindError
from cachebackend.writebehind.expressions import PUT
from cachebackend.writebehind.manager import split_field
from cachebackend.writebehind.wire import NULL, wire_of

__all__ = ["Applied", "apply_batch"]

#: One change of a shape: column and kind.
Change = tuple[str, bytes]
Shape = tuple[Change, ...]


class Applied(NamedTuple):
    """What a batch did.

    Attributes:
        keys: Primary keys of the rows that were changed.
        missing: How many rows were not there.
    """

    keys: list[Any]
    missing: int


def apply_batch(
    model: type[models.Model], using: str, batch: Mapping[bytes, bytes], chunk_rows: int
) -> Applied:
    """Write a batch's rows, inside the caller's transaction.

    Args:
        model: The rows' model.
        using: The database alias, a Postgres.
        batch: Row, column and kind to value, as the queue has them.
        chunk_rows: The most rows in one statement.

    Raises:
        WriteBehindError: The database is not Postgres.
        django.db.Error: Postgres refused it.
    """
    connection = connections[using]
    if connection.vendor != "postgresql":
        message = f"write-behind lands in Postgres; DATABASES[{using!r}] is {connection.vendor}"
        raise WriteBehindError(message)
    changed: list[Any] = []
    missing = 0
    for shape, rows in _shapes(model, batch).items():
        statements = _Statements(model, connection, shape)
        ordered = iter(sorted(rows))
        while chunk := list(islice(ordered, chunk_rows)):
            landed = statements.run(chunk)
            changed += landed
            missing += len(chunk) - len(landed)
    return Applied(changed, missing)


def _shapes(model: type[models.Model], batch: Mapping[bytes, bytes]) -> dict[Shape, list[tuple[Any, ...]]]:
    """Return for each shape the rows that have it: primary key, then the changes' values."""
    rows: dict[bytes, dict[Change, bytes]] = {}
    for field, value in batch.items():
        key, column, kind = split_field(field)
        rows.setdefault(key, {})[column, kind] = value
    columns = {field.column: field for field in model._meta.concrete_fields}
    load_key = wire_of(model._meta.pk).load
    shapes: dict[Shape, list[tuple[Any, ...]]] = {}
    for key, changes in rows.items():
        shape = tuple(sorted(changes))
        values = [_value(columns[column], kind, changes[column, kind]) for column, kind in shape]
        shapes.setdefault(shape, []).append((load_key(key), *values))
    return shapes


def _value(field: models.Field[Any, Any], kind: bytes, wire: bytes) -> Any:
    if kind == PUT:
        return None if wire == NULL else wire_of(field).load(wire[1:])
    return wire_of(field).undelta(int(wire))  # type: ignore[misc]  # only such fields are given deltas


class _Statements:
    """The statements of one shape."""

    def __init__(self, model: type[models.Model], connection: BaseDatabaseWrapper, shape: Shape) -> None:
        self._connection = connection
        quote = connection.ops.quote_name
        pk = model._meta.pk
        fields = {field.column: field for field in model._meta.concrete_fields}
        names = [f"{kind.decode()}_{number}" for number, (_, kind) in enumerate(shape)]
        types = [_type(fields[column], kind, connection) for column, kind in shape]
        table = quote(model._meta.db_table)
        key = quote(str(pk.column))
        key_type = pk.rel_db_type(connection)
        # Of the session, so that its making is not paid for by every batch
        stage = quote(f"writebehind_{xxh3_64_hexdigest(repr((table, shape, types)).encode())}")
        columns = ", ".join(f"{name} {type_}" for name, type_ in zip(names, types, strict=True))
        self._create = (
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {stage} (pk {key_type}, {columns}) ON COMMIT DELETE ROWS"
        )
        self._empty = f"TRUNCATE {stage}"
        self._copy = f"COPY {stage} (pk, {', '.join(names)}) FROM STDIN"
        self._lock = (
            f"SELECT FROM {table} t JOIN {stage} s ON t.{key} = s.pk ORDER BY t.{key} FOR NO KEY UPDATE OF t"
        )
        sets = ", ".join(
            f"{quote(column)} = {_sum(f't.{quote(column)}', changes)}"
            for column, changes in _by_column(shape, names).items()
        )
        # names are quoted, values were copied
        self._update = f"UPDATE {table} t SET {sets} FROM {stage} s WHERE t.{key} = s.pk RETURNING t.{key}"

    def run(self, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Write rows in the order of their keys, so two writers cannot deadlock; return the keys changed."""
        with self._connection.cursor() as cursor:
            cursor.execute(self._create)
            cursor.execute(self._empty)
            with cursor.copy(self._copy) as copy:
                for row in rows:
                    copy.write_row(row)
            cursor.execute(self._lock)
            cursor.execute(self._update)
            return [key for (key,) in cursor.fetchall()]


def _by_column(shape: Shape, names: Sequence[str]) -> dict[str, dict[bytes, str]]:
    """Return for each column its kinds of change and where the staged values stand."""
    columns: dict[str, dict[bytes, str]] = {}
    for (column, kind), name in zip(shape, names, strict=True):
        columns.setdefault(column, {})[kind] = f"s.{name}"
    return columns


def _sum(current: str, changes: Mapping[bytes, str]) -> str:
    """Return the new value: what was put, or else what stands, and the delta that came after it."""
    return " + ".join(_terms(current, changes))


def _terms(current: str, changes: Mapping[bytes, str]) -> Iterator[str]:
    yield changes.get(PUT, current)
    yield from (name for kind, name in changes.items() if kind != PUT)


def _type(field: models.Field[Any, Any], kind: bytes, connection: BaseDatabaseWrapper) -> str:
    """Return the staged column's type: the field's own for a value, a wide one for a delta."""
    if kind == PUT:
        return str(field.rel_db_type(connection) if field.primary_key else field.db_type(connection))
    if isinstance(field, models.DateTimeField | models.DurationField):
        return "interval"
    return "numeric" if isinstance(field, models.DecimalField) else "bigint"
