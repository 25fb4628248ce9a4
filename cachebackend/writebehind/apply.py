"""The SQL of one batch: each shape is one statement, whose parameters are arrays: one for each column.

Arrays leave nothing behind: a temporary table for each shape would take a lock, and every later
commit of the session would empty it.

A shape is what is done to a row: whether it is created or deleted, and the set of columns that it
changes and how. Rows of one shape share a statement; a batch of counter increments has one shape,
for any number of rows. Deletes come first and inserts last, each in the order of the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from cachebackend.errors import WriteBehindDamagedError, WriteBehindError
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.fetched_rows import fetch_rows
from cachebackend.invalidation.old_rows import old_and_new, returns_old_rows
from cachebackend.invalidation.written_rows import Fetched, WrittenChange, WrittenRows
from cachebackend.writebehind.arrays import array_text, converter
from cachebackend.writebehind.batch import CREATED, DELETED, RowGroup, Shape, group_rows, rows_of
from cachebackend.writebehind.conversion import conversion_fault
from cachebackend.writebehind.engines import engine_fault
from cachebackend.writebehind.exact_keys import key_fault
from cachebackend.writebehind.expressions import AT_MOST, BOUNDS, DELTA, PUT
from cachebackend.writebehind.refusals import TOO_SLOW, Refusal
from cachebackend.writebehind.stored_columns import StoredColumn

__all__ = ["Applied", "apply_batch"]

T = TypeVar("T")
#: The refusal of rows for which no time was left.
LATE = Refusal("The batch took too long; this row is written later, by itself.", TOO_SLOW)
#: The refusals of rows that were not created: the key exists, or a trigger returned no row.
EXISTS = Refusal("A row with this key exists already, with other values.")
SKIPPED = Refusal("The database created no row and reported no error: a trigger or a rule skips it.")
#: Encoded bytes in one statement. Postgres accepts 1 GB, and a byte may be sent as four characters.
MAX_BYTES = 64 * 2**20
#: The most rows of a batch whose old and new values are followed, to find the results of queries that they
#: make wrong. To read and digest the values of a row takes longer than to write it.
ROWS_WITH_VALUES = 500


@dataclass(slots=True)
class Applied:
    """The result of applying rows.

    Attributes:
        changes: What has changed for caches.
        rows: The number of rows that changed.
        missing: The number of rows that do not exist.
        refused: The keys of rows that were not changed, each with the reason.
    """

    changes: list[WrittenChange] = field(default_factory=list)
    rows: int = 0
    missing: int = 0
    refused: dict[Any, Refusal] = field(default_factory=dict)

    def add(self, other: Applied) -> None:
        """Add the result of another part of the batch."""
        self.changes += other.changes
        self.rows += other.rows
        self.missing += other.missing
        self.refused |= other.refused


def apply_batch(
    model: type[models.Model],
    using: str,
    batch: Sequence[RowGroup],
    stored: Mapping[str, StoredColumn],
    *,
    chunk_rows: int,
    may_begin: Callable[[], bool],
) -> Applied:
    """Apply rows, inside the caller's transaction.

    Args:
        model: The rows' model.
        using: The alias of a Postgres database.
        batch: The rows. A group without rows runs its statements too.
        stored: The columns of the model's table.
        chunk_rows: The most rows in one statement.
        may_begin: Returns whether another statement may begin; if not, the rows that are left are refused.

    Raises:
        WriteBehindError: The database is not Postgres.
        WriteBehindDamagedError: A value cannot be decoded.
        django.db.Error: Postgres refused the rows.
    """
    connection = connections[using]
    if fault := engine_fault(model, using):
        raise WriteBehindError(fault)
    if key_fault(model, using):  # one statement would change a row once for all of its equal keys
        chunk_rows = 1
    rows = sum(len(group.pks) for group in batch)
    table = _Table(model, connection, stored, with_values=rows <= ROWS_WITH_VALUES)
    applied = Applied()
    writable: list[RowGroup] = []
    for group in sorted(batch, key=lambda group: list(group.pks[:1])):
        if error := table.refusal(group):
            applied.refused.update(dict.fromkeys(group.pks, error))
        else:
            writable.append(group)
    if deleting := [group for group in writable if group.marker in DELETED]:
        for pks in _chunks(sorted(pk for group in deleting for pk in group.pks), chunk_rows):
            applied.add(table.delete(pks) if may_begin() else _late(pks))
    changed = [group for group in writable if not group.marker]
    created = [group for group in writable if group.marker in CREATED]
    if len({group.shape for group in created}) < len(
        created
    ):  # some of a shape were deleted before, some not
        created = group_rows(row._replace(marker=b"c") for row in rows_of(created))
    for write, groups in ((table.update, changed), (table.insert, created)):
        for group in groups:
            for chunk in group.chunks(chunk_rows, MAX_BYTES):
                applied.add(write(chunk) if may_begin() else _late(chunk.pks))
    return applied


def _late(pks: Sequence[Any]) -> Applied:
    return Applied(refused=dict.fromkeys(pks, LATE))


def _chunks(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values) or 1, size):
        yield values[start : start + size]


class _Staged(NamedTuple):
    """Keys and values as a relation of SQL, and the parameters that it needs."""

    relation: str
    arrays: list[str]


class _Table:
    """A model's table, and the statements that change it."""

    def __init__(
        self,
        model: type[models.Model],
        connection: BaseDatabaseWrapper,
        stored: Mapping[str, StoredColumn],
        *,
        with_values: bool,
    ) -> None:
        self._connection = connection
        self._stored = stored
        self._model = model
        self._fields = {f.column: f for f in model._meta.local_concrete_fields}
        self._table = self._quote(model._meta.db_table)
        self._pk = model._meta.pk
        self._key = self._quote(str(self._pk.column))
        self._written = WrittenRows(model, connection.alias, existing=stored.keys(), with_values=with_values)

    def _quote(self, name: str) -> str:
        """Quote a name for a statement with parameters, in which a percent sign is written twice."""
        return self._connection.ops.quote_name(name).replace("%", "%%")

    def refusal(self, group: RowGroup) -> Refusal | None:
        """Return why rows cannot be written: a column that is gone, or whose type does not fit any more."""
        refusals = (conversion_fault(self._model, column) for column, _ in group.shape)
        return next((Refusal(refusal, is_of_version=True) for refusal in refusals if refusal), None)

    def delete(self, pks: Sequence[Any]) -> Applied:
        """Delete rows; rows that do not exist are counted as missing."""
        staged = self._stage((), pks, [])
        deleted = self._fetch(
            f"DELETE FROM {self._table} t USING {staged.relation} "
            f"WHERE t.{self._key} = s.pk {self._returning}",
            staged,
        )
        count = len(deleted.rows)
        return Applied(self._written.deleted(deleted), rows=count, missing=len(pks) - count)

    def update(self, rows: RowGroup) -> Applied:
        """Change rows, in the order of their keys, so that two writers do not deadlock."""
        staged = self._stage(rows.shape, rows.pks, rows.columns)
        columns = {column for column, _ in rows.shape}
        sets = ", ".join(
            f"{self._quote(column)} = {_new(f't.{self._quote(column)}', names)}"
            for column, names in _by_column(rows.shape).items()
        )
        change = f"UPDATE {self._table} t SET {sets} FROM {staged.relation} WHERE t.{self._key} = s.pk"
        if not self._written.is_cached:
            changed = self._execute(change, staged)
            return Applied(rows=changed, missing=len(rows.pks) - changed)
        old, new = self._changed(change, staged, with_old=self._written.needs_old(columns))
        changed = len(new.rows)
        return Applied(
            self._written.updated(columns, new, old), rows=changed, missing=len(rows.pks) - changed
        )

    def _changed(self, change: str, staged: _Staged, *, with_old: bool) -> tuple[Fetched | None, Fetched]:
        """Execute an UPDATE; return the rows before it, if they are needed, and after it."""
        if not with_old:
            return None, self._fetch(f"{change} {self._returning}", staged)
        if returns_old_rows(self._connection):
            options, names = old_and_new([self._quote(str(f.column)) for f in self._written.fields])
            rows, error = self._fetch(f"{change} RETURNING {options}{', '.join(names)}", staged)
            width = len(names) // 2
            old, new = [row[:width] for row in rows], [row[width:] for row in rows]
            return Fetched(old, error), Fetched(new, error)
        before = self._fetch(
            f"SELECT {self._cached_columns} FROM {self._table} t JOIN {staged.relation} "
            f"ON t.{self._key} = s.pk ORDER BY t.{self._key} FOR NO KEY UPDATE OF t",
            staged,
        )
        return before, self._fetch(f"{change} {self._returning}", staged)

    def insert(self, rows: RowGroup) -> Applied:
        """Create rows; a row whose key exists already with other values stays as it is and is refused."""
        staged = self._stage(rows.shape, rows.pks, rows.columns)
        columns = _by_column(rows.shape)
        names = "".join(f", {self._quote(column)}" for column in columns)
        values = "".join(f", {_new('NULL', staged_names)}" for staged_names in columns.values())
        created = self._fetch(
            f"INSERT INTO {self._table} AS t ({self._key}{names}) SELECT s.pk{values} FROM {staged.relation} "
            f"ORDER BY s.pk ON CONFLICT ({self._key}) DO NOTHING {self._returning}",
            staged,
        )
        created_pks = {row[0] for row in created.rows}
        applied = Applied(self._written.inserted(created), rows=len(created_pks))
        if len(created_pks) < len(rows.pks):
            applied.add(self._repeat(rows.only(set(rows.pks) - created_pks)))
        return applied

    def _repeat(self, rows: RowGroup) -> Applied:
        """Create rows whose keys exist: a creation was sent twice, or the key belongs to another row.

        A caller that got no reply sends a creation again, and the first one may be drained by then. If
        the row has the values of the creation, only what was queued after it is left to apply.
        """
        staged = self._stage(rows.shape, rows.pks, rows.columns)
        same = "".join(
            f" AND t.{self._quote(column)} IS NOT DISTINCT FROM {names[PUT]}"
            for column, names in _by_column(rows.shape).items()
        )
        equal_pks = self._keys(f"{same} FOR NO KEY UPDATE OF t", staged)
        is_changed = any(kind != PUT for _, kind in rows.shape)
        applied = self.update(rows.only(equal_pks)) if equal_pks and is_changed else Applied()
        applied.refused = dict.fromkeys(set(rows.pks) - equal_pks, EXISTS)
        if applied.refused:
            applied.refused |= dict.fromkeys(self._not_created(rows.only(applied.refused)), SKIPPED)
        return applied

    def _not_created(self, rows: RowGroup) -> set[Any]:
        """Return the keys of rows that do not exist though their creation met no error."""
        staged = self._stage((), rows.pks, [])
        return set(rows.pks) - self._keys("", staged)

    def _keys(self, condition: str, staged: _Staged) -> set[Any]:
        """Return those keys of staged rows that the table has, on a condition."""
        sql = f"SELECT t.{self._key} FROM {self._table} t JOIN {staged.relation} ON t.{self._key} = s.pk"
        return {key for (key,) in self._fetch(sql + condition, staged).rows}

    def _stage(self, shape: Shape, pks: Sequence[Any], values: Sequence[Sequence[bytes]]) -> _Staged:
        """Return the relation ``s`` of keys and decoded values: ``pk``, and a column for each change."""
        from psycopg import adapt

        transformer = adapt.Transformer(self._connection.connection)
        names, types = ["pk"], [self._type(self._pk, PUT)]
        arrays = [array_text(pks, transformer)]
        for number, ((column, kind), encoded) in enumerate(zip(shape, values, strict=True)):
            names.append(f"{kind.decode()}_{number}")
            types.append(self._type(self._fields[column], kind))
            convert = converter(self._fields[column], kind)
            try:
                arrays.append(array_text([convert(each) for each in encoded], transformer))
            except Exception as error:  # a queue may hold any bytes, which decode to any error
                raise_interrupt(error)
                message = f"The queue's value of {column!r} cannot be read: {error}"
                raise WriteBehindDamagedError(message) from error
        parameters = ", ".join(f"%s::{type_}[]" for type_ in types)
        return _Staged(f"unnest({parameters}) AS s({', '.join(names)})", arrays)

    def _type(self, field: models.Field[Any, Any], kind: bytes) -> str:
        """Return the type of a staged column: that of the table without its length, or a wider one for sums.

        A cast to a type with a length would truncate a value that is too long; an assignment refuses it.
        """
        if isinstance(field, models.DateTimeField):  # the text of a timestamp without time zone has none
            return "interval" if kind == DELTA else str(field.db_type(self._connection))
        if isinstance(field, models.IntegerField) and kind != PUT:
            return "bigint"
        if isinstance(field, models.DecimalField) and kind != PUT:
            return "numeric"
        return self._stored[str(field.column)].type

    @property
    def _cached_columns(self) -> str:
        return ", ".join(f"t.{self._quote(str(f.column))}" for f in self._written.fields)

    @property
    def _returning(self) -> str:
        return f"RETURNING {self._cached_columns}"

    def _execute(self, sql: str, staged: _Staged) -> int:
        with self._run(sql, staged) as cursor:
            return int(cursor.rowcount)

    def _fetch(self, sql: str, staged: _Staged) -> Fetched:
        with self._run(sql, staged) as cursor:
            return Fetched(*fetch_rows(cursor))

    def _run(self, sql: str, staged: _Staged) -> CursorWrapper:
        """Run a statement with its arrays as parameters, also where Django would write them into the SQL.

        The server's log would repeat such a statement, with all its values, for each refused row.
        """
        from psycopg import Cursor
        from psycopg.types.string import StrDumperUnknown

        raw: Cursor[Any] = Cursor(self._connection.connection)
        # Without a type of its own, an array is of the type that the statement names
        raw.adapters.register_dumper(str, StrDumperUnknown)
        is_logged = self._connection.queries_logged
        wrap: Callable[[Any], CursorWrapper] = (
            self._connection.make_debug_cursor if is_logged else self._connection.make_cursor
        )
        cursor = wrap(raw)
        cursor.execute(sql, staged.arrays)
        return cursor


def _by_column(shape: Shape) -> dict[str, dict[bytes, str]]:
    """Return for each column its kinds of change, each with the name of its staged column."""
    columns: dict[str, dict[bytes, str]] = {}
    for number, (column, kind) in enumerate(shape):
        columns.setdefault(column, {})[kind] = f"s.{kind.decode()}_{number}"
    return columns


def _new(current: str, staged: Mapping[bytes, str]) -> str:
    """Return the SQL of a new value: the put or else the current value, plus the delta, within the bounds.

    GREATEST and LEAST of Postgres ignore NULL, and so do the ORM's on Postgres.
    """
    value = staged.get(PUT, current)
    if DELTA in staged:
        value = f"{value} + {staged[DELTA]}"
    for kind in BOUNDS:
        if kind in staged:
            value = f"{'LEAST' if kind == AT_MOST else 'GREATEST'}({value}, {staged[kind]})"
    return value
