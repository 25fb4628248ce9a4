"""One INSERT, UPDATE or DELETE on a watched table, as it is known before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import models
from django.db.models.constants import OnConflict
from django.db.models.lookups import Exact
from django.db.models.sql.compiler import SQLCompiler, SQLInsertCompiler, SQLUpdateCompiler

from cachebackend.backend.open_transactions import is_in_pipeline, is_in_transaction
from cachebackend.invalidation.catalogue import catalogue_of
from cachebackend.invalidation.columns import ReadColumns
from cachebackend.invalidation.old_rows import returns_old_rows
from cachebackend.invalidation.query_changes import MAX_ROWS
from cachebackend.invalidation.statement_outbox import ROWS_PER_OUTBOX_ROW, can_write_outbox_row
from cachebackend.invalidation.tables import WatchedTable
from cachebackend.properties import cached_property

__all__ = ["Statement"]


class Statement:
    """What is known of a statement before it runs.

    Args:
        compiler: Django's compiler of the statement.
        tables: The table, as each model has it whose rows are cached.
    """

    def __init__(self, compiler: SQLCompiler, tables: Sequence[WatchedTable]) -> None:
        self._compiler, self._tables = compiler, tables
        self._query: Any = compiler.query  # an InsertQuery, UpdateQuery or DeleteQuery
        self._connection: Any = compiler.connection
        self._model: Any = self._query.get_meta().concrete_model
        self._columns = ReadColumns(
            self._model, tables, self._connection.alias, with_values=not self._inserts_many
        )
        self._fields = self._columns.fields

    @property
    def _can_return(self) -> bool:
        """Whether UPDATE and DELETE may have a RETURNING clause."""
        connection = self._connection
        is_sqlite = connection.vendor == "sqlite" and connection.features.can_return_columns_from_insert
        return bool(connection.vendor == "postgresql" or is_sqlite)

    @property
    def _returns_old_rows(self) -> bool:
        return returns_old_rows(self._connection)

    @property
    def _would_change_fewer(self) -> bool:
        """Whether an UPDATE or DELETE would change fewer rows if it returned them, or was made to read them.

        Row-level security of Postgres then hides the rows that the role may write and not read. It also
        does so if the filter of the statement reads a column.
        """
        connection = self._connection
        if connection.vendor != "postgresql":
            return False
        if any(hasattr(getattr(leaf, "lhs", None), "target") for leaf in self._query.where.leaves()):
            return False
        return catalogue_of(self._model._meta.db_table, connection.alias).has_row_security

    @property
    def _inserts_many(self) -> bool:
        """Whether all rows are new, and more than are followed by their values."""
        if not isinstance(self._compiler, SQLInsertCompiler):
            return False
        return self._query.on_conflict is not OnConflict.UPDATE and len(self._query.objs) > MAX_ROWS

    @cached_property
    def _changed_fields(self) -> list[models.Field[Any, Any]]:
        """The columns that an UPDATE or upsert sets in rows that exist."""
        if isinstance(self._compiler, SQLUpdateCompiler):
            return [field for field, _, _ in self._query.values]
        if isinstance(self._compiler, SQLInsertCompiler) and self._query.on_conflict is OnConflict.UPDATE:
            return list(self._query.update_fields)
        return []

    @cached_property
    def _changes_keys(self) -> bool:
        """Whether an UPDATE or upsert may change a column that is read: itself, or by a trigger."""
        return self._columns.may_change({str(field.column) for field in self._changed_fields})

    @property
    def _may_miss_old_rows(self) -> bool:
        """Whether an upsert may update rows that another transaction inserts after they were looked for."""
        connection = self._connection
        if not isinstance(self._compiler, SQLInsertCompiler) or not self._changed_fields:
            return False
        sees_all = self._returns_old_rows or connection.vendor == "sqlite"
        return not sees_all and self._changes_keys

    @cached_property
    def _set_columns(self) -> frozenset[str]:
        """The columns that may differ in a row that existed before: those set, and generated ones."""
        return self._columns.differing({str(field.column) for field in self._changed_fields})

    @property
    def _changed_columns(self) -> frozenset[str] | None:
        """The columns that may differ between the states of every changed row; None: all may."""
        if not isinstance(self._compiler, SQLUpdateCompiler):
            return None
        return None if self._columns.has_before_row_triggers else self._set_columns

    @property
    def _moves_rows(self) -> bool:
        """Whether rows that existed may get another primary key."""
        own = {field.column for field in self._model._meta.pk_fields}
        keys = own.union(*({field.column for field in table.model._meta.pk_fields} for table in self._tables))
        changed: list[Any] = self._changed_fields
        return any(field.column in keys for field in changed)

    @property
    def _is_new(self) -> bool:
        """Whether rows may be new: inserted, moved to another primary key or to another parent's row."""
        changed: list[Any] = self._changed_fields
        return (
            isinstance(self._compiler, SQLInsertCompiler)
            or self._moves_rows
            or any(field.is_relation and field.remote_field.parent_link for field in changed)
        )

    @property
    def _can_be_alone(self) -> bool:
        """Whether the statement, and nothing else, can be one transaction with its outbox row."""
        connection = self._connection
        if is_in_transaction(connection) or is_in_pipeline(connection) or not self._can_return:
            return False
        if isinstance(self._compiler, SQLInsertCompiler):
            reads_first = self._changes_keys and not self._returns_old_rows
        elif isinstance(self._compiler, SQLUpdateCompiler):
            reads_first = bool(self._query.related_updates) or not self._columns.names_rows
        else:
            reads_first = False
        if not isinstance(self._compiler, SQLInsertCompiler) and self._would_change_fewer:
            return False
        return not reads_first and can_write_outbox_row(connection, self._model, self._tables)

    @cached_property
    def _is_large(self) -> bool:
        """Whether the statement may change more rows than one outbox row names."""
        if isinstance(self._compiler, SQLInsertCompiler):
            return len(self._query.objs) > ROWS_PER_OUTBOX_ROW
        conditions = self._query.where.children
        [first, *more] = conditions or [None]
        if more or not isinstance(first, Exact) or self._query.where.negated:
            return True
        # A primary key that equals another column, is one of a related row, or is not that of the table, may
        # name many rows
        is_pk = getattr(first.lhs, "target", None) is self._model._meta.pk
        is_own = is_pk and first.lhs.alias == self._query.base_table
        return not (is_own and first.rhs_is_direct_value() and self._columns.names_rows)

    @property
    def _is_single(self) -> bool:
        """Whether the statement changes at most one row, and is not an upsert: that may have old values."""
        if isinstance(self._compiler, SQLInsertCompiler):
            return len(self._query.objs) == 1 and not self._changed_fields
        return not self._is_large
