"""The SQL of one batch: rows copied into a temporary table, then one statement for each shape.

A shape is what is done to a row: whether it is created or deleted, and the set of columns
that it changes and how. Rows of one shape share a statement; a batch of a counter has one
shape, however many rows. Deletes come first and inserts last, each in the order of the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from xxhash import xxh3_64_hexdigest

from cachebackend.errors import WriteBehindDamagedError, WriteBehindError
from cachebackend.invalidation.watched import dependents_of
from cachebackend.writebehind.batch import CREATED, DELETED, Alike, Shape, alike, rows_of
from cachebackend.writebehind.expressions import AT_LEAST, AT_MOST, DELTA, PUT
from cachebackend.writebehind.wire import NULL, wire_of

__all__ = ["Applied", "apply_batch"]

T = TypeVar("T")


@dataclass(slots=True)
class Applied:
    """What was done.

    Attributes:
        touched: The rows that changed, by the columns that caches ask for them by: what
            stood there before and what stands there now.
        rows: How many rows changed.
        missing: How many rows were not there.
        refused: The keys of rows that were left as they are, and why.
    """

    touched: list[dict[str, Any]] = field(default_factory=list)
    rows: int = 0
    missing: int = 0
    refused: dict[Any, str] = field(default_factory=dict)

    def add(self, other: Applied) -> None:
        """Add what another part of a batch did."""
        self.touched += other.touched
        self.rows += other.rows
        self.missing += other.missing
        self.refused |= other.refused


def apply_batch(model: type[models.Model], using: str, batch: Sequence[Alike], chunk_rows: int) -> Applied:
    """Write rows, inside the caller's transaction.

    Args:
        model: The rows' model.
        using: The database alias, a Postgres.
        batch: The rows.
        chunk_rows: The most rows in one statement.

    Raises:
        WriteBehindError: The database is not Postgres.
        WriteBehindDamagedError: A value cannot be read.
        django.db.Error: Postgres refused them.
    """
    connection = connections[using]
    if connection.vendor != "postgresql":
        message = f"write-behind lands in Postgres; DATABASES[{using!r}] is {connection.vendor}"
        raise WriteBehindError(message)
    table = _Table(model, connection)
    applied = Applied()
    writable: list[Alike] = []
    for same in sorted(batch, key=lambda same: same.pks[0]):
        if error := table.refusal(same):
            applied.refused.update(dict.fromkeys(same.pks, error))
        else:
            writable.append(same)
    deleted = sorted(pk for same in writable if same.marker in DELETED for pk in same.pks)
    for pks in _chunks(deleted, chunk_rows):
        applied.add(table.delete(pks))
    changed = [same for same in writable if not same.marker]
    created = [same for same in writable if same.marker in CREATED]
    if len({same.shape for same in created}) < len(created):  # of one shape are some that were deleted before
        created = alike(row._replace(marker=b"c") for row in rows_of(created))
    for write, all_alike in ((table.update, changed), (table.insert, created)):
        for same in all_alike:
            for chunk in same.chunks(chunk_rows):
                applied.add(write(chunk))
    return applied


def _chunks(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for at in range(0, len(values), size):
        yield values[at : at + size]


class _Table:
    """A model's table, and the statements that change it."""

    def __init__(self, model: type[models.Model], connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._quote = connection.ops.quote_name
        self._label = model._meta.label
        self._fields = {f.column: f for f in model._meta.local_concrete_fields}
        self._is_cached = bool(dependents_of(model))
        self._table = self._quote(model._meta.db_table)
        self._pk = model._meta.pk
        self._key = self._quote(str(self._pk.column))
        asked = {name for _, dependent in dependents_of(model) for name in dependent.fields}
        self._asked = [f for f in model._meta.local_concrete_fields if f.attname in asked and f != self._pk]

    def refusal(self, same: Alike) -> str | None:
        """Return why rows cannot be written, if they name a column that is gone."""
        gone = next((column for column, _ in same.shape if column not in self._fields), None)
        return None if gone is None else f"{self._label} has no column {gone!r} any more."

    def delete(self, pks: Sequence[Any]) -> Applied:
        """Delete rows; those that are not there are no matter."""
        stage = self._stage((), pks, [])
        gone = self._fetch(
            f"DELETE FROM {self._table} t USING {stage} s WHERE t.{self._key} = s.pk {self._returning()}"
        )
        return Applied(gone, rows=len(gone), missing=len(pks) - len(gone))

    def update(self, rows: Alike) -> Applied:
        """Change rows, in the order of their keys, so that two writers do not deadlock."""
        stage = self._stage(rows.shape, rows.pks, rows.columns)
        columns = {column for column, _ in rows.shape}
        sets = ", ".join(
            f"{self._quote(column)} = {_new(f't.{self._quote(column)}', staged)}"
            for column, staged in _by_column(rows.shape).items()
        )
        change = f"UPDATE {self._table} t SET {sets} FROM {stage} s WHERE t.{self._key} = s.pk"
        if any(f.column in columns for f in self._asked):
            before = self._fetch(
                f"SELECT {self._asked_columns()} FROM {self._table} t JOIN {stage} s "
                f"ON t.{self._key} = s.pk ORDER BY t.{self._key} FOR NO KEY UPDATE OF t"
            )
            now = self._fetch(f"{change} {self._returning()}")
            return Applied(before + now, rows=len(now), missing=len(rows.pks) - len(now))
        # What caches ask for them by stays as it was: their keys are enough, and need not be asked for
        changed = self._execute(change)
        touched = [{"pk": pk} for pk in rows.pks] if self._is_cached else []
        return Applied(touched, rows=changed, missing=len(rows.pks) - changed)

    def insert(self, rows: Alike) -> Applied:
        """Create rows; those that are there stay as they are."""
        stage = self._stage(rows.shape, rows.pks, rows.columns)
        columns = _by_column(rows.shape)
        names = "".join(f", {self._quote(column)}" for column in columns)
        values = "".join(f", {_new('NULL', staged)}" for staged in columns.values())
        made = self._fetch(
            f"INSERT INTO {self._table} AS t ({self._key}{names}) SELECT s.pk{values} FROM {stage} s "
            f"ORDER BY s.pk ON CONFLICT ({self._key}) DO NOTHING {self._returning()}"
        )
        there = {row["pk"] for row in made}
        refused = {pk: "A row with this key is there already." for pk in rows.pks if pk not in there}
        return Applied(made, rows=len(made), refused=refused)

    def _stage(self, shape: Shape, pks: Sequence[Any], values: Sequence[Sequence[bytes]]) -> str:
        """Copy keys and the columns of values into the shape's temporary table; return its name."""
        columns = [
            (f"{kind.decode()}_{number}", _type(self._fields[column], kind, self._connection))
            for number, (column, kind) in enumerate(shape)
        ]
        # Of the session, so that its making is not paid for by every batch
        stage = self._quote(f"writebehind_{xxh3_64_hexdigest(repr((self._table, shape, columns)).encode())}")
        definition = "".join(f", {name} {type_}" for name, type_ in columns)
        names = "".join(f", {name}" for name, _ in columns)
        copied: list[Iterable[Any]] = [pks]
        for (column, kind), travels in zip(shape, values, strict=True):
            convert = _converter(self._fields[column], kind)
            try:
                copied.append([convert(each) for each in travels])
            except Exception as error:  # what stands in a queue is foreign bytes
                message = f"The queue's value of {column!r} cannot be read: {error}"
                raise WriteBehindDamagedError(message) from error
        with self._connection.cursor() as cursor:
            cursor.execute(
                f"CREATE TEMPORARY TABLE IF NOT EXISTS {stage} "
                f"(pk {self._pk.rel_db_type(self._connection)}{definition}) ON COMMIT DELETE ROWS; "
                f"TRUNCATE {stage}"
            )
            # Django wraps execute() only: an error of the copy is psycopg's own else
            with (
                self._connection.wrap_database_errors,
                cursor.copy(f"COPY {stage} (pk{names}) FROM STDIN") as copy,
            ):
                for row in zip(*copied, strict=True):
                    copy.write_row(row)
        return stage

    def _asked_columns(self) -> str:
        return ", ".join(f"t.{self._quote(str(f.column))}" for f in (self._pk, *self._asked))

    def _returning(self) -> str:
        return f"RETURNING {self._asked_columns()}"

    def _execute(self, sql: str) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            return int(cursor.rowcount)

    def _fetch(self, sql: str) -> list[dict[str, Any]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            names = ["pk", *(f.attname for f in self._asked)]
            return [dict(zip(names, values, strict=True)) for values in cursor.fetchall()]


def _converter(field: models.Field[Any, Any], kind: bytes) -> Callable[[bytes], Any]:
    wire = wire_of(field)
    if kind == PUT:
        adapt = wire.adapt or wire.load
        return lambda travels: None if travels == NULL else adapt(_put(travels))
    if kind == DELTA and wire.undelta is not int:
        return lambda travels: wire.undelta(int(travels))  # type: ignore[misc]  # only such fields are given deltas
    return wire.load


def _put(travels: bytes) -> bytes:
    if not travels.startswith(b"="):
        message = f"{travels[:40]!r} is no value that was put"
        raise ValueError(message)
    return travels[1:]


def _by_column(shape: Shape) -> dict[str, dict[bytes, str]]:
    """Return for each column its kinds of change and where the staged values stand."""
    columns: dict[str, dict[bytes, str]] = {}
    for number, (column, kind) in enumerate(shape):
        columns.setdefault(column, {})[kind] = f"s.{kind.decode()}_{number}"
    return columns


def _new(current: str, staged: Mapping[bytes, str]) -> str:
    """Return the new value: what was put, or else what stands, the delta after it, the bounds around both.

    Postgres' GREATEST and LEAST pass over NULL, as the ORM's do there.
    """
    value = staged.get(PUT, current)
    if DELTA in staged:
        value = f"{value} + {staged[DELTA]}"
    if AT_LEAST in staged:
        value = f"GREATEST({value}, {staged[AT_LEAST]})"
    if AT_MOST in staged:
        value = f"LEAST({value}, {staged[AT_MOST]})"
    return value


def _type(field: models.Field[Any, Any], kind: bytes, connection: BaseDatabaseWrapper) -> str:
    """Return the staged column's type: the field's own for a value, a wide one for what was added up."""
    if isinstance(field, models.IntegerField) and kind != PUT:
        return "bigint"
    if isinstance(field, models.DecimalField) and kind != PUT:
        return "numeric"
    if isinstance(field, models.DateTimeField) and kind == DELTA:
        return "interval"
    return str(field.rel_db_type(connection) if field.primary_key else field.db_type(connection))
