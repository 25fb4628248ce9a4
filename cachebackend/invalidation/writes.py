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
  find those that are deleted. The same holds if Python cannot read a value of a returned row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

from django.core.exceptions import EmptyResultSet
from django.db import models
from django.db.models import sql
from django.db.models.sql.compiler import SQLCompiler, SQLDeleteCompiler, SQLInsertCompiler, SQLUpdateCompiler
from django.db.models.sql.constants import ROW_COUNT

from cachebackend.interrupts import note_interrupt, raise_interrupt
from cachebackend.invalidation.catalogue import bindable_fields
from cachebackend.invalidation.changes import paired
from cachebackend.invalidation.conflicts import conflicting_rows
from cachebackend.invalidation.fetched_rows import UNREADABLE
from cachebackend.invalidation.old_rows import (
    lock_for_writing,
    matching_rows,
    old_and_new,
    update_by_rowid,
    update_joined,
)
from cachebackend.invalidation.outbox_table import asking_again
from cachebackend.invalidation.own_statement import OwnStatement
from cachebackend.invalidation.returning import returning
from cachebackend.invalidation.row_texts import most_states
from cachebackend.invalidation.statement_changes import StatementChanges
from cachebackend.invalidation.statement_outbox import StatementOutbox
from cachebackend.invalidation.stored_changes import delete_stored
from cachebackend.invalidation.tables import WatchedTable
from cachebackend.invalidation.transactions import each_statement_in_a_transaction

__all__ = ["Write"]

Fields: TypeAlias = "Sequence[models.Field[Any, Any]]"


class Write(StatementChanges):
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

    @contextmanager
    def committed_with_its_outbox_row(self, *, reads_back: bool) -> Iterator[None]:
        """Execute the statement inside this block: its outbox row is committed with it.

        The statement writes it, if it is a transaction of its own and able to. Otherwise the transaction
        writes it, before its commit.

        Args:
            reads_back: Whether the statement is an UPDATE whose caller reads columns of the rows.
        """
        if not self._can_be_alone:
            with each_statement_in_a_transaction(self._connection), self._interrupted_is_unknown():
                yield
            return
        [table] = self._tables
        is_insert = isinstance(self._compiler, SQLInsertCompiler)
        outbox = StatementOutbox(
            table,
            self._connection.ops.quote_name,
            is_large=self._is_large,
            is_single=self._is_single,
            returns_all=is_insert or reads_back,  # the caller has as many instances
            values=self._outbox_values(table),
            bindable=bindable_fields(table.model, self._connection.alias),
            changed=self._changed_columns,
        )
        self._own = OwnStatement(self._connection.alias, table, outbox)
        with asking_again(self._connection.alias):
            yield

    @contextmanager
    def _interrupted_is_unknown(self) -> Iterator[None]:
        """Add everything if the statement is interrupted: it may have run, and its rows are not known.

        The caller may catch the exception and commit. Django marks a transaction for rollback only after a
        subclass of Exception, which KeyboardInterrupt is not, and not in ``_raw_delete``.
        """
        try:
            yield
        except BaseException as error:
            if not isinstance(error, Exception) or note_interrupt(error):
                self._add_everything()
            raise

    def _outbox_values(self, table: WatchedTable) -> Sequence[models.Field[Any, Any]]:
        """Return the fields of the values that outbox rows hold beside the columns of keys."""
        values = self._fields[len(table.fields) :]
        if isinstance(self._compiler, SQLInsertCompiler) and not self._is_large:
            fits = 2 * len(self._query.objs) <= most_states(values)  # an upsert has two states of a row
            return values if fits else ()
        return values

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
        if not self._can_read_changes:
            return self._run_unnamed(result_type)
        if not self._can_return:
            self._compiler.pre_sql_setup()
            return self._run_named()
        with self._returning_changes():
            result = self._method(self._compiler, result_type)
        return self._counted(result, result_type)

    def update_returning(self, returning_fields: Fields) -> Any:
        """Execute the UPDATE of a ``save`` that reads columns back, as Django 6.1 does."""
        if not self._can_read_changes or not self._can_return:
            return self._run_unnamed(returning_fields)
        with (
            self._returning_changes(returning_fields) as rows,
            self._connection.cursor() as cursor,
            suppress(EmptyResultSet),  # no row matches
        ):
            cursor.execute(*self._compiler.as_sql())
        return rows

    @property
    def _can_read_changes(self) -> bool:
        """Whether an UPDATE changes the same rows if it returns them, or is made to read or name them."""
        returns_rows = self._can_return and (self._returns_old_rows or not self._changes_keys)
        return not self._would_change_fewer and (returns_rows or self._columns.names_rows)

    def _returning_changes(self, more: Fields = ()) -> AbstractContextManager[list[Sequence[Any]]]:
        """Let an UPDATE return the changed rows, with their old values if it changes a column that is read.

        Args:
            more: As for ``_returning``.
        """
        if self._returns_old_rows:
            return self._returning_old_and_new(more)
        if not self._changes_keys:
            return self._returning(more=more)
        if self._connection.vendor == "postgresql":
            names = [*self._names, *map(self._quoted, more)]
            compile_statement, old = update_joined(self._compiler, names, self._columns.key_width)
            return self._returning([*old, *names], more, compile_statement=compile_statement)
        compile_statement, rows = update_by_rowid(self._compiler, self._names)
        self._old += self._converted(self._fields, rows)
        return self._returning(more=more, compile_statement=compile_statement)

    def delete(self, result_type: Any) -> Any:
        """Execute a DELETE; arguments and result as for the compiler's method."""
        if self._would_change_fewer:
            return self._run_unnamed(result_type)
        if self._can_return:
            with self._returning():
                result = self._method(self._compiler, result_type)
            return self._counted(result, result_type)
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

    def _returning_old_and_new(self, more: Fields = ()) -> AbstractContextManager[list[Sequence[Any]]]:
        """Let the statement return changed rows with their old and their new values, as Postgres 18 can."""
        quote = self._connection.ops.quote_name
        names = [quote(field.column) for field in [*self._fields, *more]]
        options, both = old_and_new(names)
        return self._returning(both, more, options=options)

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
            names = [*self._names, *map(self._quoted, more)]
        width, own = len(fields), len(self._fields)
        options |= {"states": len(names) // width, "outbox": self._own and self._own.outbox}
        try:
            with returning(self._compiler, names, **options) as returned:
                yield found
        except Exception as error:
            raise_interrupt(error)
            if returned.is_executed and self._own is not None:
                self._own.finish(self._add_everything)
            raise
        states = [
            [row[start : start + width] for row in returned.rows] for start in range(0, len(names), width)
        ]
        own_states = [[row[:own] for row in rows] for rows in states] if more else states
        add = partial(self._add_returned, returned, own_states)
        if self._own is None:
            add()
        else:
            self._finish(self._own, add)
        if more:
            rows = [row[own:] for row in states[-1]]
            if returned.error is not None and any(UNREADABLE in row for row in rows):
                raise returned.error  # Django raises it, too
            found[:] = self._converted(more, rows)

    def _finish(self, own: OwnStatement, add: Callable[[], None]) -> None:
        """Delete what is wrong because of the changed rows; ``add`` adds the keys of returned ones."""
        if not own.outbox.omitted:
            own.finish(add)
            return
        are_updated = isinstance(self._compiler, SQLUpdateCompiler) and not self._moves_rows
        changes = self._changes(self._tables[0], ())
        delete_stored(changes, own.outbox.pks, own.using, are_updated=are_updated)

    def _counted(self, result: Any, result_type: Any) -> Any:
        """Return the result of a statement: how many rows it changed, also if it did not return them."""
        omitted = self._own.outbox.omitted if self._own is not None else 0
        return omitted if omitted and result_type == ROW_COUNT else result

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
        """Execute the statement as it is: made to read or name rows, it could change others than Django's."""
        self._add_everything()
        return self._method(self._compiler, result_type)
