"""The execution of one INSERT, UPDATE or DELETE on a watched table, and the rows that it changes.

The changed rows come from the database, never from an instance: an instance may hold ``"1"``
for 1, an expression, or values that another writer has changed.

- ``RETURNING`` gives the new rows of an INSERT, the old ones of a DELETE, and those of an UPDATE or
  upsert: on Postgres 18 the old and the new ones, elsewhere the new ones. If the statement changes no
  column that keys are made of, they are also the old ones.
- Otherwise the rows are locked and read first (``old_rows``). For an upsert they are the rows with
  which the new rows conflict (``conflicts``).
- If a statement was to return rows and none arrived, or the rows that it locks cannot be named by
  primary key, everything that is cached of the table is deleted. That is always right and rarely
  happens. To raise an error would break a write that is right, and to read the rows again cannot
  find those that are deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

from django.db import models
from django.db.models import sql
from django.db.models.sql.compiler import SQLCompiler, SQLDeleteCompiler, SQLUpdateCompiler
from django.db.models.sql.constants import ROW_COUNT

from cachebackend.invalidation.changes import Pair, TableChanges, paired, unpaired
from cachebackend.invalidation.conflicts import conflicting_rows
from cachebackend.invalidation.deletes import PendingDeletes
from cachebackend.invalidation.old_rows import (
    OLD,
    lock_for_writing,
    matching_rows,
    update_by_rowid,
    update_joined,
)
from cachebackend.invalidation.returning import returning
from cachebackend.invalidation.statement import Statement
from cachebackend.invalidation.statement_outbox import (
    StatementOutbox,
)
from cachebackend.invalidation.tables import WatchedTable
from cachebackend.invalidation.transaction_deletes import CommittedDeletes
from cachebackend.invalidation.transactions import each_statement_in_a_transaction, open_deletes
from cachebackend.invalidation.watched import is_historical

__all__ = ["Write"]

#: The name by which RETURNING calls the new row; a table may be called "new".
_NEW = "ringcache_new"
Fields: TypeAlias = "Sequence[models.Field[Any, Any]]"


class Write(Statement):
    """One statement on a watched table.

    Args:
        compiler: Django's compiler of the statement.
        tables: The table, as each model has it whose rows are cached.
        method: The compiler's own method that executes the statement.
    """

    def __init__(
        self, compiler: SQLCompiler, tables: Sequence[WatchedTable], method: Callable[..., Any]
    ) -> None:
        super().__init__(compiler, tables)
        self._method = method
        #: Given if the statement is a transaction of its own, in which it writes its outbox row.
        self._outbox: StatementOutbox | None = None
        self._own_deletes: CommittedDeletes | None = None
        #: The changed rows as they were, as far as they were read before the statement.
        self._old: list[Sequence[Any]] = []

    @contextmanager
    def committed_with_its_outbox_row(self) -> Iterator[None]:
        """Execute the statement inside this block: its outbox row is committed with it.

        The statement writes it, if it is a transaction of its own and able to. Otherwise the transaction
        writes it, before its commit.
        """
        if not self._can_be_alone:
            with each_statement_in_a_transaction(self._connection):
                yield
            return
        quote_name = self._connection.ops.quote_name
        self._outbox = StatementOutbox(self._tables[0], quote_name, is_large=self._is_large)
        self._own_deletes = CommittedDeletes(self._connection.alias)
        yield
        self._own_deletes.add_outbox_rows(self._outbox.pks)
        self._own_deletes.after_commit()

    def insert(self, returning_fields: Fields | None = None) -> Any:
        """Execute an INSERT; arguments and result as for the compiler's method."""
        if self._changes_keys and self._returns_old_rows:
            columns = returning_fields or []
            with self._returning_old_and_new(columns) as rows:
                self._method(self._compiler)
            return rows
        can_return = self._connection.features.can_return_rows_from_bulk_insert
        if self._changes_keys or (self._changed_fields and not can_return):
            self._read_conflicting()
        if not can_return:
            returned = self._method(self._compiler, returning_fields)
            self._add_instances(returned)
            return returned
        with self._returning(more=returning_fields or ()) as rows:
            self._method(self._compiler)
        return rows if returning_fields else []

    def update(self, result_type: Any) -> Any:
        """Execute an UPDATE; arguments and result as for the compiler's method."""
        returns_rows = self._can_return and (self._returns_old_rows or not self._changes_keys)
        if not returns_rows and not self._columns.names_rows:
            return self._run_unnamed(result_type)
        if not self._can_return:
            self._compiler.pre_sql_setup()
            return self._run_named()
        if self._returns_old_rows:
            context: Any = self._returning_old_and_new()
        elif not self._changes_keys:
            context = self._returning()
        elif self._connection.vendor == "postgresql":
            compile_statement, old = update_joined(self._compiler, self._names, self._columns.key_width)
            context = self._returning([*old, *self._names], compile_statement=compile_statement)
        else:
            compile_statement, rows = update_by_rowid(self._compiler, self._names)
            self._old += self._converted(self._fields, rows)
            context = self._returning(compile_statement=compile_statement)
        with context:
            return self._method(self._compiler, result_type)

    def update_returning(self, returning_fields: Fields) -> Any:
        """Execute the UPDATE of a ``save`` that reads columns back, as Django 6.1 does."""
        if self._changes_keys:
            lock_for_writing(self._compiler)
            self._compiler.pre_sql_setup()
            self._old += self._matching()
        return self._run_returning(returning_fields)

    def delete(self, result_type: Any) -> Any:
        """Execute a DELETE; arguments and result as for the compiler's method."""
        if self._can_return:
            with self._returning():
                return self._method(self._compiler, result_type)
        if not self._columns.names_rows:
            return self._run_unnamed(result_type)
        return self._run_named()

    # Rows that the statement returns

    @property
    def _names(self) -> list[str]:
        """The columns to read, as SQL."""
        return [self._quoted(field) for field in self._fields]

    def _quoted(self, field: Any) -> str:
        quote = self._connection.ops.quote_name
        return f"{quote(self._query.get_meta().db_table)}.{quote(field.column)}"

    def _run_returning(self, returning_fields: Fields) -> list[Sequence[Any]]:
        """Execute a statement that reads columns back, and let it read the changed rows as well."""
        rows = self._method(self._compiler, [*returning_fields, *self._fields])
        count = len(returning_fields)
        self._add(self._pairs([row[count:] for row in rows if row is not None]))
        return [row[:count] for row in rows]

    def _returning_old_and_new(self, more: Fields = ()) -> AbstractContextManager[list[Sequence[Any]]]:
        """Let the statement return changed rows with their old and their new values, as Postgres 18 can."""
        quote = self._connection.ops.quote_name
        names = [quote(field.column) for field in [*self._fields, *more]]
        both = [f"{row}.{name}" for row in (OLD, _NEW) for name in names]
        return self._returning(both, more, options=f"WITH (OLD AS {OLD}, NEW AS {_NEW}) ")

    @contextmanager
    def _returning(
        self, names: Sequence[str] = (), more: Fields = (), **options: Any
    ) -> Iterator[list[Sequence[Any]]]:
        """Let the statement return the changed rows.

        Args:
            names: What it returns, as SQL: the columns, also those of ``more``, once or twice.
            more: More columns, for the caller.
            options: Further arguments for ``returning``.

        Yields:
            A list, to which the new values of ``more`` are added at the end.
        """
        fields = [*self._fields, *more]
        found: list[Sequence[Any]] = []
        if not names:
            names = [*self._names, *(self._quoted(field) for field in more)]
        states = len(names) // len(fields)
        options |= {"states": states, "outbox": self._outbox}
        with returning(self._compiler, names, **options) as returned:
            yield found
        if returned.missing:
            self._add_everything()
        width, own = len(fields), len(self._fields)
        read = []
        for start in range(0, len(names), width):
            rows = self._converted(fields, [row[start : start + width] for row in returned.rows])
            read.append([row[:own] for row in rows] if more else rows)
            found[:] = [row[own:] for row in rows]
        if states == 1:
            self._add(self._pairs(read[0]))
        else:
            self._add([_pair(old, new) for old, new in zip(*read, strict=True)])

    def _pairs(self, rows: Sequence[Sequence[Any]]) -> list[Pair]:
        """Return the changed rows before and after, from the rows that the statement has returned."""
        if isinstance(self._compiler, SQLDeleteCompiler):
            return [(row, None) for row in rows]
        if isinstance(self._compiler, SQLUpdateCompiler) and not self._changes_keys:
            return [(row, row) for row in rows]
        if self._moves_rows:
            return unpaired(self._old, rows)
        return paired(self._old, rows, self._columns.key_width)

    def _converted(self, fields: Fields, rows: list[Sequence[Any]]) -> list[Sequence[Any]]:
        """Return rows with the values that Django reads, from the values that the driver returned."""
        columns: list[Any] = [field.get_col(self._model._meta.db_table) for field in fields]
        converters = self._compiler.get_converters(columns)
        return list(self._compiler.apply_converters(rows, converters)) if converters else rows

    # Rows that are read before the statement

    def _read_conflicting(self) -> None:
        """Lock the rows that an upsert updates, until the transaction ends, and read them."""
        filters = conflicting_rows(self._compiler)
        if filters:
            lock_for_writing(self._compiler)
        for conflicting in filters:
            query: Any = sql.Query(self._query.model)
            query.add_q(conflicting)
            self._old += self._matching(query)

    def _matching(self, query: Any = None) -> list[Sequence[Any]]:
        """Lock the rows that match a query, until the transaction ends, and return them.

        Args:
            query: A query on one table; None: that of the statement.
        """
        query = self._query if query is None else query
        if isinstance(self._compiler, SQLDeleteCompiler) and not self._compiler.single_alias:
            inner = query.chain(klass=sql.Query)
            inner.clear_ordering(force=True)
            inner.clear_select_clause()
            inner.add_fields(["pk"])
            query = sql.Query(self._query.model)
            query.add_filter("pk__in", inner)
        query.get_initial_alias()
        compiler = query.get_compiler(self._connection.alias)
        return self._converted(self._fields, matching_rows(compiler, query, self._names))

    def _named(self, keys: Sequence[Any]) -> Any:
        """Return the query, with a filter that names rows by primary key in place of its own."""
        query = self._query.clone()
        query.clear_where()
        query.add_filter("pk__in", list(keys))
        return query

    def _run_named(self) -> int:
        """Read the rows and execute the statement for them by primary key; return how many it changed."""
        self._old += self._matching()
        width = self._columns.key_width
        keys = [row[0] if width == 1 else tuple(row[:width]) for row in self._old]
        compiler = self._named(keys).get_compiler(self._connection.alias)
        count: int = self._method(compiler, ROW_COUNT) or 0
        if self._is_new:  # the rows have other primary keys, which nothing returns
            self._add_everything()
        elif isinstance(self._compiler, SQLUpdateCompiler):
            new = Write(compiler, self._tables, self._method)._matching()
            self._add(paired(self._old, new, width))
        else:
            self._add(self._pairs(self._old))
        return count

    def _run_unnamed(self, result_type: Any) -> Any:
        """Execute the statement as it is: named by primary key, other rows could change than Django's."""
        self._add_everything()
        return self._method(self._compiler, result_type)

    # Pending deletes

    def _add(self, pairs: Sequence[Pair]) -> None:
        """Add changed rows to the pending deletes.

        Args:
            pairs: The values of the columns of each row, before and after the statement.
        """
        if not pairs:
            return
        deletes = self._deletes
        if self._may_miss_old_rows and any(old is None for old, _ in pairs):
            self._add_unseen()
        in_migration = is_historical(self._query.get_meta().model)
        for table in self._tables:
            rows = self._columns.rows_of(table, pairs)
            if rows is None:
                self._add_everything(table)
                continue
            deletes.add_changes(
                TableChanges(
                    table,
                    rows,
                    self._set_columns,
                    knows_old=self._returns_old_rows or self._changes_keys,
                    is_new=self._is_new,
                    in_migration=in_migration,
                )
            )

    def _add_unseen(self) -> None:
        """Add what may be wrong because of old values that were not seen: results, and rows at old ends."""
        for table in self._tables:
            if table.ends:
                self._deletes.add_table(table)
            else:
                self._deletes.add_results(table)

    def _add_everything(self, *tables: WatchedTable) -> None:
        """Add everything that is cached of the table: which rows changed is not known."""
        for table in tables or self._tables:
            self._deletes.add_table(table)

    @property
    def _deletes(self) -> PendingDeletes:
        """The pending deletes of the statement, or of the open transaction."""
        return self._own_deletes or open_deletes(self._connection)

    def _add_instances(self, returned: list[Sequence[Any]]) -> None:
        """Add the rows of an INSERT on a database that does not return them, as the instances have them."""
        rows: list[list[Any]] = []
        for instance in self._query.objs:
            values = [
                None if field.generated else getattr(instance, field.attname, None) for field in self._fields
            ]
            rows.append([None if hasattr(value, "resolve_expression") else value for value in values])
        if len(rows) == len(returned) == 1 and rows[0][0] is None:
            rows[0][0] = returned[0][0]
        self._add(paired(self._old, rows, self._columns.key_width))


def _pair(old: Sequence[Any], new: Sequence[Any]) -> Pair:
    """Return a row before and after a statement, from what the statement has returned of it."""
    if old == new:
        return new, new
    return (old if any(value is not None for value in old) else None), new  # an upsert may insert a row
