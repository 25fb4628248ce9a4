"""The rows that a statement will change, as they are before it, on databases that cannot return them.

A filter must be evaluated once: the second time it could match other rows. And no other writer may
change a row between the moment it is read and the moment it is written.

- Postgres before 18 reads and updates in one statement. A subquery evaluates the filter, locks the
  rows and returns their old values, and the UPDATE joins it by primary key. The lock is the weakest
  that an UPDATE takes. If a key changes, the UPDATE itself takes the stronger one, as it does in
  plain Django.
- SQLite has one lock for all writers. It is taken by a statement that changes nothing, before the
  rows are read: a transaction that reads first cannot wait for it. The UPDATE names the rows by
  ``rowid``, in one statement.
- Other databases lock the rows by ``SELECT … FOR UPDATE``, and the statement names them by key.

The filter is that of Django's own statement, compiled by Django: ``pre_sql_setup`` has moved what
needs other tables into a subquery. So it is evaluated again for a row that another transaction
changes meanwhile, wherever Django's own statement would do so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from django.core.exceptions import EmptyResultSet, FullResultSet
from django.db.models.sql.where import WhereNode

from cachebackend.invalidation.returning import Compile

__all__ = [
    "NEW",
    "OLD",
    "lock_for_writing",
    "matching_rows",
    "old_and_new",
    "returns_old_rows",
    "update_by_rowid",
    "update_joined",
]

#: The names by which a statement calls the rows before and after the change; a table may be called "old".
OLD, NEW = "ringcache_old", "ringcache_new"
#: The first version of Postgres whose RETURNING gives old values.
POSTGRES_18 = 180_000
#: A column of every table of SQLite, beside those of its CREATE TABLE.
_ROWID = "_rowid_"
_Statement: TypeAlias = tuple[str, Sequence[Any]]


def returns_old_rows(connection: Any) -> bool:
    """Return whether the RETURNING clause of a database gives old values."""
    return bool(connection.vendor == "postgresql" and connection.pg_version >= POSTGRES_18)


def old_and_new(columns: Sequence[str]) -> tuple[str, list[str]]:
    """Return how a RETURNING clause gives columns of a row before and after the change.

    Args:
        columns: The columns as SQL.

    Returns:
        What the clause has before the columns, and the old and then the new columns.
    """
    names = [f"{row}.{column}" for row in (OLD, NEW) for column in columns]
    return f"WITH (OLD AS {OLD}, NEW AS {NEW}) ", names


def update_joined(compiler: Any, columns: Sequence[str], key_width: int) -> tuple[Compile, list[str]]:
    """Return how Postgres updates and returns old values in one statement.

    Args:
        compiler: The compiler of an UPDATE.
        columns: The columns to read, those of the primary key first.
        key_width: How many columns the primary key has.

    Returns:
        What compiles the statement, and the names of the old values in its RETURNING clause.
    """
    names = [f"{OLD}_{number}" for number in range(len(columns))]

    def compile_statement(as_sql: Callable[[], Any]) -> _Statement:
        compiler.pre_sql_setup()
        # Names that no expression of the user can mean
        renamed = [f"{column} AS {name}" for column, name in zip(columns, names, strict=True)]
        old, old_params = _select(compiler, compiler.query, renamed)
        update, params = _without_filter(compiler, as_sql)
        keys = zip(columns[:key_width], names[:key_width], strict=True)
        same_row = " AND ".join(f"{column} = {OLD}.{name}" for column, name in keys)
        return update and f"{update} FROM ({old}) AS {OLD} WHERE {same_row}", (*params, *old_params)

    return compile_statement, [f"{OLD}.{name}" for name in names]


def lock_for_writing(compiler: Any) -> None:
    """Take the lock of SQLite's writers; other databases lock the rows that are read."""
    connection = compiler.connection
    if connection.vendor == "sqlite":
        column = connection.ops.quote_name(compiler.query.get_meta().pk_fields[0].column)
        with connection.cursor() as cursor:
            cursor.execute(f"UPDATE {_table(compiler)} SET {column} = {column} WHERE 0")


def update_by_rowid(compiler: Any, columns: Sequence[str]) -> tuple[Compile, list[Sequence[Any]]]:
    """Read the rows that an UPDATE on SQLite changes.

    Returns:
        What compiles the UPDATE so that it names these rows, and the rows.
    """
    lock_for_writing(compiler)
    compiler.pre_sql_setup()
    table = _table(compiler)
    found = matching_rows(compiler, compiler.query, [f"{table}.{_ROWID}", *columns])
    named = f" WHERE {table}.{_ROWID} IN (SELECT value FROM json_each(%s))"

    def compile_statement(as_sql: Callable[[], Any]) -> _Statement:
        if not found:
            raise EmptyResultSet
        update, params = _without_filter(compiler, as_sql)
        return update and update + named, (*params, json.dumps([row[0] for row in found]))

    return compile_statement, [row[1:] for row in found]


def matching_rows(compiler: Any, query: Any, columns: Sequence[str]) -> list[Sequence[Any]]:
    """Lock the rows of one table that match a query, until the transaction ends, and return them."""
    try:
        sql, params = _select(compiler, query, columns)
    except EmptyResultSet:
        return []
    with compiler.connection.cursor() as cursor:
        cursor.execute(sql, params)
        return list(cursor.fetchall())


def _select(compiler: Any, query: Any, columns: Sequence[str]) -> _Statement:
    connection = compiler.connection
    sql, params = f"SELECT {', '.join(columns)} FROM {_table(compiler)}", ()
    try:
        where, params = compiler.compile(query.where)
        sql += f" WHERE {where}"
    except FullResultSet:
        pass
    if connection.features.has_select_for_update:
        no_key = connection.features.has_select_for_no_key_update
        sql += f" {connection.ops.for_update_sql(no_key=no_key)}"
    return sql, tuple(params)


def _without_filter(compiler: Any, as_sql: Callable[[], Any]) -> _Statement:
    """Return an UPDATE without its filter, which ``pre_sql_setup`` has already made."""
    query, filtered = compiler.query, compiler.query.where
    query.where, compiler.pre_sql_setup = WhereNode(), lambda: None
    try:
        sql, params = as_sql()
    finally:
        query.where = filtered
        del compiler.pre_sql_setup
    return sql, params


def _table(compiler: Any) -> str:
    return str(compiler.connection.ops.quote_name(compiler.query.get_meta().db_table))
