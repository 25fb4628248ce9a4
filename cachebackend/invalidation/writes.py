"""The write seam: every INSERT, UPDATE and DELETE of the ORM, where Django compiles it.

Managers, related managers, the deletion of related rows, and the models of migrations all write
through three compilers of Django. ``install`` wraps their methods that execute a statement. A
statement on a watched table runs in a transaction, and the rows that it changed are added to the
pending deletes of that transaction.

The changed rows come from the database, never from an instance: an instance may hold ``"1"``
for 1, an expression, or values that another writer has changed.

- ``RETURNING`` gives the new rows of an INSERT, the old ones of a DELETE, and those of an UPDATE or
  upsert: on Postgres 18 the old and the new ones, elsewhere the new ones. If the statement changes no
  column that keys are made of, they are also the old ones.
- Otherwise the rows are locked and read first. An UPDATE or DELETE then names them by primary key, so
  its filter is not evaluated a second time: it could match other rows. For an upsert they are the
  rows with which the new rows conflict (``conflicts``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import sql
from django.db.models.constants import OnConflict
from django.db.models.sql.compiler import SQLCompiler, SQLDeleteCompiler, SQLInsertCompiler, SQLUpdateCompiler
from django.db.models.sql.constants import ROW_COUNT

from cachebackend.invalidation.conflicts import conflicting_rows, keeps_unique_columns
from cachebackend.invalidation.tables import WatchedTable, forget_tables, watched_table
from cachebackend.invalidation.transactions import each_statement_in_a_transaction, open_deletes
from cachebackend.invalidation.watched import Dependent, is_historical, register

__all__ = ["install", "is_installed", "watch"]

#: The first version whose RETURNING gives old values.
POSTGRES_18 = 180_000
#: The attribute that marks a wrapped method.
_MARK = "_ringcache_wraps"
#: The names by which RETURNING calls the old and the new row; a table may be called "old".
_OLD, _NEW = "ringcache_old", "ringcache_new"
Fields: TypeAlias = "Sequence[models.Field[Any, Any]]"


def watch(model: type[models.Model], dependent: Dependent) -> None:
    """Invalidate what a dependent caches of a model's rows whenever one changes."""
    register(model, dependent)
    forget_tables()
    install()


def install() -> None:
    """Wrap the methods of Django's compilers that execute writes; a second call does nothing."""
    _wrap(SQLInsertCompiler, "execute_sql", "insert")
    _wrap(SQLUpdateCompiler, "execute_sql", "update")
    _wrap(SQLUpdateCompiler, "execute_returning_sql", "update_returning")
    _wrap(SQLDeleteCompiler, "execute_sql", "delete")


def is_installed(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the writes of a connection are seen: an engine may replace Django's compilers."""
    names = ("SQLInsertCompiler", "SQLUpdateCompiler", "SQLDeleteCompiler")
    return all(hasattr(connection.ops.compiler(name).execute_sql, _MARK) for name in names)


def _wrap(compiler: type[SQLCompiler], name: str, write: str) -> None:
    """Let a method of ``_Write`` execute the statements on watched tables."""
    method = getattr(compiler, name, None)
    if method is None or hasattr(method, _MARK):  # Django 5.2 has no ``execute_returning_sql``
        return

    @functools.wraps(method)
    def execute(self: SQLCompiler, *args: Any, **kwargs: Any) -> Any:
        table = watched_table(self.query.get_meta().db_table)
        if table is None:
            return method(self, *args, **kwargs)
        with each_statement_in_a_transaction(self.connection):
            return getattr(_Write(self, table, method), write)(*args, **kwargs)

    setattr(execute, _MARK, method)
    setattr(compiler, name, execute)


class _Write:
    """One statement on a watched table.

    Args:
        compiler: Django's compiler of the statement.
        table: The table.
        method: The compiler's own method that executes the statement.
    """

    def __init__(self, compiler: SQLCompiler, table: WatchedTable, method: Callable[..., Any]) -> None:
        self._compiler, self._table, self._method = compiler, table, method
        self._query: Any = compiler.query  # an InsertQuery, UpdateQuery or DeleteQuery
        self._connection: Any = compiler.connection
        # The model of a migration may lack columns that the project's model has
        model: Any = compiler.query.get_meta().concrete_model
        columns = {field.column for field in model._meta.local_concrete_fields}
        self._fields = [field for field in table.fields if field.column in columns]

    def insert(self, returning_fields: Fields | None = None) -> Any:
        """Execute an INSERT; arguments and result as for the compiler's method."""
        statement = self._connection.ops.insert_statement(on_conflict=self._query.on_conflict)
        if self._changes_keys and self._returns_old_rows:
            columns = returning_fields or []
            with self._returning(statement, has_old_rows=True, is_new=True, columns=columns) as rows:
                self._method(self._compiler)
            return rows
        can_return = self._connection.features.can_return_rows_from_bulk_insert
        if self._changes_keys or (self._changed_fields and not can_return):
            self._add_conflicting()
        if not can_return:
            returned = self._method(self._compiler, returning_fields)
            self._add_instances(returned)
            return returned
        if returning_fields:
            return self._run_returning(returning_fields)
        with self._returning(statement, is_new=True):
            return self._method(self._compiler, returning_fields)

    def update(self, result_type: Any) -> Any:
        """Execute an UPDATE; arguments and result as for the compiler's method."""
        if self._can_return and (self._returns_old_rows or not self._changes_keys):
            with self._returning("UPDATE", has_old_rows=self._returns_old_rows):
                return self._method(self._compiler, result_type)
        self._compiler.pre_sql_setup()  # it moves a filter on other tables into a subquery
        keys = [row["pk"] for row in self._add_matching(self._query)]
        count = self._run_named(keys)
        if not self._can_return:
            self._add_matching(self._named(keys))
        return count

    def update_returning(self, returning_fields: Fields | None) -> Any:
        """Execute the UPDATE of a ``save`` that reads columns back, as Django 6.1 does."""
        if not returning_fields or not self._connection.features.can_return_rows_from_update:
            return self._method(self._compiler, returning_fields)  # it calls ``execute_sql``
        if self._changes_keys:
            self._compiler.pre_sql_setup()
            self._add_matching(self._query)
        return self._run_returning(returning_fields)

    def delete(self, result_type: Any) -> Any:
        """Execute a DELETE; arguments and result as for the compiler's method."""
        if self._can_return:
            with self._returning("DELETE FROM"):
                return self._method(self._compiler, result_type)
        return self._run_named([row["pk"] for row in self._add_matching(self._query)])

    # Rows that the statement returns

    @property
    def _can_return(self) -> bool:
        """Whether UPDATE and DELETE may have a RETURNING clause."""
        connection = self._connection
        is_sqlite = connection.vendor == "sqlite" and connection.features.can_return_columns_from_insert
        return bool(connection.vendor == "postgresql" or is_sqlite)

    @property
    def _returns_old_rows(self) -> bool:
        connection = self._connection
        return bool(connection.vendor == "postgresql" and connection.pg_version >= POSTGRES_18)

    @property
    def _changed_fields(self) -> list[models.Field[Any, Any]]:
        """The columns that an UPDATE or upsert sets in rows that exist."""
        if isinstance(self._compiler, SQLUpdateCompiler):
            return [field for field, _, _ in self._query.values]
        if isinstance(self._compiler, SQLInsertCompiler) and self._query.on_conflict is OnConflict.UPDATE:
            return list(self._query.update_fields)
        return []

    @property
    def _changes_keys(self) -> bool:
        """Whether an UPDATE or upsert sets a column that keys are made of, or a generated one depends on."""
        names = {field.attname for field in self._changed_fields}
        return bool(names) and any(field.generated or field.attname in names for field in self._fields)

    def _run_returning(self, returning_fields: Fields) -> list[Sequence[Any]]:
        """Execute a statement that reads columns back, and let it read the changed rows as well."""
        rows = self._method(self._compiler, [*returning_fields, *self._fields])
        count = len(returning_fields)
        self._add([row[count:] for row in rows], is_new=True)
        return [row[:count] for row in rows]

    @contextmanager
    def _returning(
        self, statement: str, *, has_old_rows: bool = False, is_new: bool = False, columns: Fields = ()
    ) -> Iterator[list[Sequence[Any]]]:
        """Let the statements that begin with these words and the table's name return the changed rows.

        Args:
            statement: The words.
            has_old_rows: Whether the rows before the change are returned too.
            is_new: Whether a row may be new.
            columns: More columns, for the caller.

        Yields:
            A list, to which the new values of ``columns`` are added at the end.
        """
        quote = self._connection.ops.quote_name
        begin = f"{statement} {quote(self._query.get_meta().db_table)}"
        fields = [*self._fields, *columns]
        names = [quote(field.column) for field in fields]
        if has_old_rows:
            both = ", ".join(f"{row}.{name}" for row in (_OLD, _NEW) for name in names)
            clause = f" RETURNING WITH (OLD AS {_OLD}, NEW AS {_NEW}) {both}"
        else:
            clause = f" RETURNING {', '.join(names)}"
        returned: list[Sequence[Any]] = []

        def execute(run: Callable[..., Any], query: str, params: Any, many: bool, context: Any) -> Any:
            if not query.startswith(begin):
                return run(query, params, many, context)
            result = run(query + clause, params, many, context)
            returned.extend(context["cursor"].fetchall())
            return result

        found: list[Sequence[Any]] = []
        with self._connection.execute_wrapper(execute):
            yield found
        width, own = len(names), len(self._fields)
        halves = [
            self._converted(fields, [row[start : start + width] for row in returned])
            for start in range(0, 2 * width if has_old_rows else width, width)
        ]
        for rows in halves:
            # A row that an upsert has inserted has no old values, not even a primary key
            self._add([row[:own] for row in rows if row[0] is not None], is_new=is_new)
        found.extend(row[own:] for row in halves[-1])

    def _converted(self, fields: Fields, rows: list[Sequence[Any]]) -> list[Sequence[Any]]:
        """Return rows with the values that Django reads, from the values that the driver returned."""
        columns: list[Any] = [field.get_col(self._table.model._meta.db_table) for field in fields]
        converters = self._compiler.get_converters(columns)
        return list(self._compiler.apply_converters(rows, converters)) if converters else rows

    # Rows that are read before the statement

    def _add_conflicting(self) -> None:
        """Lock the rows that an upsert updates, until the transaction ends, and add them."""
        conflicting = conflicting_rows(self._compiler)
        if conflicting is not None:
            query = sql.Query(self._query.model)
            query.add_q(conflicting)
            self._add_matching(query)

    def _add_matching(self, query: Any) -> list[dict[str, Any]]:
        """Lock the rows that match a query, until the transaction ends, and add them."""
        select = query.chain(klass=sql.Query)
        select.clear_ordering(force=True)
        select.select_related, select.extra = False, {}
        if isinstance(self._compiler, SQLDeleteCompiler) and not self._compiler.single_alias:
            select.clear_select_clause()
            select.add_fields(["pk"])
            outer: Any = sql.Query(self._query.model)
            outer.add_filter("pk__in", select)
            select = outer
        select.select_for_update = True
        if self._changed_fields and self._connection.features.has_select_for_no_key_update:
            select.select_for_no_key_update = keeps_unique_columns(self._query.model, self._changed_fields)
        alias = select.get_initial_alias()
        select.clear_select_clause()
        select.set_select([field.get_col(alias) for field in self._fields])
        rows = list(select.get_compiler(self._connection.alias).results_iter())
        return self._add(rows)

    def _named(self, keys: Sequence[Any]) -> Any:
        """Return the query, with a filter that names rows by primary key in place of its own."""
        query = self._query.clone()
        query.clear_where()
        query.add_filter("pk__in", list(keys))
        return query

    def _run_named(self, keys: Sequence[Any]) -> int:
        """Execute the statement for the rows with these primary keys; return how many it changed."""
        size = self._connection.ops.bulk_batch_size(["pk"], keys) or 1
        count = 0
        for start in range(0, len(keys), size):
            compiler = self._named(keys[start : start + size]).get_compiler(self._connection.alias)
            write = _Write(compiler, self._table, self._method)
            if self._can_return:
                with write._returning("UPDATE"):
                    count += self._method(compiler, ROW_COUNT) or 0
            else:
                count += self._method(compiler, ROW_COUNT) or 0
        return count

    # Pending deletes

    def _add(self, rows: Sequence[Sequence[Any]], *, is_new: bool = False) -> list[dict[str, Any]]:
        """Add changed rows to the pending deletes of the transaction; return them by column."""
        by_column = [self._table.row(self._fields, row) for row in rows if row is not None]
        self._add_rows(by_column, is_new=is_new)
        return by_column

    def _add_rows(self, rows: list[dict[str, Any]], *, is_new: bool) -> None:
        if rows:
            deletes = open_deletes(self._connection)
            in_migration = is_historical(self._query.get_meta().model)
            changes = self._table.changed(
                rows, self._connection.alias, is_new=is_new, in_migration=in_migration
            )
            for dependent, changed in changes:
                deletes.add_changed(dependent, changed)

    def _add_instances(self, returned: list[Sequence[Any]]) -> None:
        """Add the rows of an INSERT on a database that does not return them, as the instances have them."""
        rows: list[dict[str, Any]] = []
        for instance in self._query.objs:
            values = [None if field.generated else getattr(instance, field.attname) for field in self._fields]
            known = [None if hasattr(value, "resolve_expression") else value for value in values]
            rows.append(self._table.row(self._fields, known))
        if len(rows) == len(returned) == 1 and rows[0]["pk"] is None:
            rows[0]["pk"] = returned[0][0]
        self._add_rows(rows, is_new=True)
