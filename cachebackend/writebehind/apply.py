"""The SQL of one batch: rows copied into a temporary table, then one statement for each shape.

A shape is what is done to a row: whether it is created or deleted, and the set of columns
that it changes and how. Rows of one shape share a statement; a batch of a counter has one
shape, however many rows. Deletes come first and inserts last, each in the order of the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias, TypeVar

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from xxhash import xxh3_64_hexdigest

from cachebackend.errors import WriteBehindDamagedError, WriteBehindError
from cachebackend.invalidation.dependents import dependents_of
from cachebackend.writebehind.changes import MARKER, SEPARATOR, split_field
from cachebackend.writebehind.expressions import AT_LEAST, AT_MOST, DELTA, PUT
from cachebackend.writebehind.wire import NULL, Wire, wire_of

__all__ = ["Applied", "BatchRow", "apply_rows", "rows_of"]

T = TypeVar("T")
#: One change of a shape: column and kind.
Change: TypeAlias = tuple[str, bytes]
Shape: TypeAlias = tuple[Change, ...]
_MARKED: Change = ("", MARKER)
#: The markers of rows that are deleted, and of those that are created.
_DELETED, _CREATED = frozenset({b"x", b"r"}), frozenset({b"c", b"r"})
_MARKERS = _DELETED | _CREATED


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


def rows_of(model: type[models.Model], batch: Mapping[bytes, bytes]) -> list[BatchRow]:
    """Return the rows of a batch, ordered by their keys.

    Raises:
        WriteBehindDamagedError: A field names no row of the model, or nothing to be done to one.
    """
    rows: dict[bytes, dict[Change, bytes]] = {}
    changes: dict[bytes, Change] = {}
    for name, value in batch.items():
        key, _, named = name.partition(SEPARATOR)
        change = changes.get(named)
        if change is None:  # a batch has many rows and few columns
            change = changes[named] = split_field(name)[1:]
        row = rows.get(key)
        if row is None:
            rows[key] = {change: value}
        else:
            row[change] = value
    wire = wire_of(model._meta.pk)
    found = [
        BatchRow(_key(wire, key), _marker(row.pop(_MARKED)) if _MARKED in row else b"", row)
        for key, row in rows.items()
    ]
    found.sort(key=itemgetter(0))
    return found


def _marker(value: bytes) -> bytes:
    if value not in _MARKERS:
        message = f"{value!r} is nothing to be done to a row"
        raise WriteBehindDamagedError(message)
    return value


def _key(wire: Wire, key: bytes) -> Any:
    try:
        pk = wire.load(key)
    except (ValueError, ArithmeticError):
        pk = None
    if pk is None or wire.dump(pk) != key:  # Python reads "+1" and "1_0" too
        message = f"{key!r} is no primary key"
        raise WriteBehindDamagedError(message)
    return pk


def apply_rows(model: type[models.Model], using: str, rows: Sequence[BatchRow], chunk_rows: int) -> Applied:
    """Write rows, inside the caller's transaction.

    Args:
        model: The rows' model.
        using: The database alias, a Postgres.
        rows: The rows, ordered by their keys.
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
    shaped, refused = table.shaped(rows)
    applied.refused |= refused
    deleted = sorted(row.pk for _, each in shaped for row in each if row.marker in _DELETED)
    for pks in _chunks(deleted, chunk_rows):
        applied.add(table.delete(pks))
    for created in (False, True):
        for shape, each in shaped:
            written = [row for row in each if (row.marker in _CREATED if created else not row.marker)]
            for chunk in _chunks(written, chunk_rows):
                applied.add(table.insert(shape, chunk) if created else table.update(shape, chunk))
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

    def shaped(self, rows: Sequence[BatchRow]) -> tuple[list[tuple[Shape, list[BatchRow]]], dict[Any, str]]:
        """Return the rows of each shape, and why those cannot be written that name a column that is gone."""
        found: dict[Shape, list[BatchRow]] = {}
        orders: dict[Shape, list[BatchRow]] = {}  # the same for each order that a row's changes stand in
        for row in rows:
            order = tuple(row.changes)
            same = orders.get(order)
            if same is None:
                same = orders[order] = found.setdefault(tuple(sorted(order)), [])
            same.append(row)
        refused: dict[Any, str] = {}
        for shape in list(found):
            if gone := [column for column, _ in shape if column not in self._fields]:
                error = f"{self._label} has no column {gone[0]!r} any more."
                refused.update((row.pk, error) for row in found.pop(shape))
        return list(found.items()), refused

    def delete(self, pks: Sequence[Any]) -> Applied:
        """Delete rows; those that are not there are no matter."""
        stage = self._stage((), [BatchRow(pk, b"", {}) for pk in pks])
        gone = self._fetch(
            f"DELETE FROM {self._table} t USING {stage} s WHERE t.{self._key} = s.pk {self._returning()}"
        )
        return Applied(gone, rows=len(gone), missing=len(pks) - len(gone))

    def update(self, shape: Shape, rows: Sequence[BatchRow]) -> Applied:
        """Change rows, in the order of their keys, so that two writers do not deadlock."""
        stage = self._stage(shape, rows)
        columns = {column for column, _ in shape}
        sets = ", ".join(
            f"{self._quote(column)} = {_new(f't.{self._quote(column)}', staged)}"
            for column, staged in _by_column(shape).items()
        )
        change = f"UPDATE {self._table} t SET {sets} FROM {stage} s WHERE t.{self._key} = s.pk"
        if any(f.column in columns for f in self._asked):
            before = self._fetch(
                f"SELECT {self._asked_columns()} FROM {self._table} t JOIN {stage} s "
                f"ON t.{self._key} = s.pk ORDER BY t.{self._key} FOR NO KEY UPDATE OF t"
            )
            now = self._fetch(f"{change} {self._returning()}")
            return Applied(before + now, rows=len(now), missing=len(rows) - len(now))
        # What caches ask for them by stays as it was: their keys are enough, and need not be asked for
        changed = self._execute(change)
        touched = [{"pk": row.pk} for row in rows] if self._is_cached else []
        return Applied(touched, rows=changed, missing=len(rows) - changed)

    def insert(self, shape: Shape, rows: Sequence[BatchRow]) -> Applied:
        """Create rows; those that are there stay as they are."""
        stage = self._stage(shape, rows)
        columns = _by_column(shape)
        names = "".join(f", {self._quote(column)}" for column in columns)
        values = "".join(f", {_new('NULL', staged)}" for staged in columns.values())
        made = self._fetch(
            f"INSERT INTO {self._table} AS t ({self._key}{names}) SELECT s.pk{values} FROM {stage} s "
            f"ORDER BY s.pk ON CONFLICT ({self._key}) DO NOTHING {self._returning()}"
        )
        there = {row["pk"] for row in made}
        refused = {row.pk: "A row with this key is there already." for row in rows if row.pk not in there}
        return Applied(made, rows=len(made), refused=refused)

    def _stage(self, shape: Shape, rows: Sequence[BatchRow]) -> str:
        """Copy rows into the shape's temporary table; return its name."""
        columns = [
            (f"{kind.decode()}_{number}", _type(self._fields[column], kind, self._connection))
            for number, (column, kind) in enumerate(shape)
        ]
        # Of the session, so that its making is not paid for by every batch
        stage = self._quote(f"writebehind_{xxh3_64_hexdigest(repr((self._table, shape, columns)).encode())}")
        definition = "".join(f", {name} {type_}" for name, type_ in columns)
        names = "".join(f", {name}" for name, _ in columns)
        values = [[row.pk for row in rows]]
        for column, kind in shape:
            convert = _converter(self._fields[column], kind)
            try:
                values.append([convert(row.changes[column, kind]) for row in rows])
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
                for row in zip(*values, strict=True):
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
