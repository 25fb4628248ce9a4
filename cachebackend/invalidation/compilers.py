"""The write seam: every INSERT, UPDATE and DELETE of the ORM, where Django compiles it.

Managers, related managers, the deletion of related rows, and the models of migrations all write
through three compilers of Django. ``install`` wraps their methods that execute a statement. A
statement on a watched table runs in a transaction, and the rows that it changed are added to the
pending deletes of that transaction (``writes``).
"""

from __future__ import annotations

import functools
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.sql.compiler import SQLCompiler, SQLDeleteCompiler, SQLInsertCompiler, SQLUpdateCompiler

from cachebackend.backend.open_transactions import OpenTransaction
from cachebackend.invalidation.tables import forget_tables, watched_tables
from cachebackend.invalidation.watched import Dependent, register, register_queries
from cachebackend.invalidation.writes import Write

__all__ = ["install", "is_installed", "watch", "watch_queries"]

#: The attribute that marks a wrapped method.
_MARK = "_ringcache_wraps"


def watch(model: type[models.Model], dependent: Dependent) -> None:
    """Invalidate what a dependent caches of a model's rows whenever one changes."""
    register(model, dependent)
    forget_tables()
    install()


def watch_queries(model: type[models.Model], alias: str) -> None:
    """Invalidate the results of queries over a model's tables that a cache alias holds."""
    register_queries(model, alias)
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
    """Let a method of ``Write`` execute the statements on watched tables."""
    method = getattr(compiler, name, None)
    if method is None or hasattr(method, _MARK):  # Django 5.2 has no ``execute_returning_sql``
        return

    @functools.wraps(method)
    def execute(self: SQLCompiler, *args: Any, **kwargs: Any) -> Any:
        with OpenTransaction.of(self.connection).of_known_rows():
            return execute_write(self, *args, **kwargs)

    def execute_write(self: SQLCompiler, *args: Any, **kwargs: Any) -> Any:
        tables = watched_tables(self.query.get_meta().db_table)
        if not tables or (write == "update_returning" and not _returns_columns(self, *args, **kwargs)):
            return method(self, *args, **kwargs)  # without columns it calls ``execute_sql``, which is wrapped
        statement = Write(self, tables, method)
        with statement.committed_with_its_outbox_row(reads_back=write == "update_returning"):
            return getattr(statement, write)(*args, **kwargs)

    setattr(execute, _MARK, method)
    setattr(compiler, name, execute)


def _returns_columns(compiler: Any, returning_fields: Any) -> bool:
    """Return whether an UPDATE with these ``returning_fields`` reads columns back."""
    if not returning_fields or compiler.query.related_updates:  # Django raises in the latter case
        return False
    return bool(compiler.connection.features.can_return_rows_from_update)
