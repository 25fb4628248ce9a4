"""The rows that a statement on a watched table has changed, as they are added to the pending deletes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import models
from django.db.models.sql.compiler import SQLCompiler, SQLDeleteCompiler, SQLUpdateCompiler

from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.changes import ChangedRow, Pair, TableChanges, paired, unpaired
from cachebackend.invalidation.columns import UNKNOWN, read_values
from cachebackend.invalidation.own_statement import OwnStatement
from cachebackend.invalidation.pending_deletes import PendingDeletes
from cachebackend.invalidation.returning import Returned
from cachebackend.invalidation.statement import Statement
from cachebackend.invalidation.tables import WatchedTable
from cachebackend.invalidation.transactions import open_deletes
from cachebackend.invalidation.watched import is_historical

__all__ = ["StatementChanges"]


class StatementChanges(Statement):
    """A statement, and what it has changed.

    Args:
        compiler: Django's compiler of the statement.
        tables: The table, as each model has it whose rows are cached.
    """

    def __init__(self, compiler: SQLCompiler, tables: Sequence[WatchedTable]) -> None:
        super().__init__(compiler, tables)
        #: Given if the statement is a transaction of its own, in which it writes its outbox row.
        self._own: OwnStatement | None = None
        #: The changed rows as they were, as far as they were read before the statement.
        self._old: list[Sequence[Any]] = []

    def _add_returned(self, returned: Returned, states: list[list[Sequence[Any]]]) -> None:
        """Add the rows that the statement has returned; everything if they are not known.

        Args:
            returned: What the statement has returned.
            states: The values of the columns of the rows, before and after the statement if it returns both.
        """
        if returned.missing:
            self._add_everything()
        try:
            if returned.error is not None:
                raise returned.error
            read = [self._converted(self._fields, rows) for rows in states]
        except Exception as error:  # noqa: BLE001  # a field of the project may raise anything
            raise_interrupt(error)
            self._add_everything()
            return
        if len(read) == 1:
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

    def _converted(self, fields: Sequence[Any], rows: list[Sequence[Any]]) -> list[Sequence[Any]]:
        """Return rows with the values that Django reads, from the values that the driver returned."""
        return read_values(self._compiler, self._model, fields, rows)

    def _add(self, pairs: Sequence[Pair]) -> None:
        """Add changed rows to the pending deletes.

        Args:
            pairs: The values of the columns of each row, before and after the statement.
        """
        if not pairs:
            return
        if self._may_miss_old_rows and any(old is None for old, _ in pairs):
            self._add_unseen()
        for table in self._tables:
            rows = self._columns.rows_of(table, pairs)
            if rows is None:
                self._add_everything(table)
            else:
                self._deletes.add_changes(self._changes(table, rows))

    def _changes(self, table: WatchedTable, rows: Sequence[ChangedRow]) -> TableChanges:
        return TableChanges(
            table,
            rows,
            self._set_columns,
            knows_old=self._returns_old_rows or self._changes_keys,
            is_new=self._is_new,
            in_migration=is_historical(self._query.get_meta().model),
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
        return self._own or open_deletes(self._connection)

    def _add_instances(self, returned: list[Sequence[Any]]) -> None:
        """Add the rows of an INSERT on a database that does not return them, as the instances have them.

        A row that an upsert updates keeps some of its values, so it is not the row of the instance.
        """
        if self._changed_fields:
            self._add_unseen()
        rows = [[_value_in(instance, field) for field in self._fields] for instance in self._query.objs]
        if len(rows) == len(returned) == 1 and rows[0][0] is UNKNOWN:
            rows[0][0] = returned[0][0]
        self._add(paired(self._old, rows, self._columns.key_width))


def _value_in(instance: models.Model, field: Any) -> Any:
    """Return the value of a field in an instance that was inserted; UNKNOWN if the database has made it."""
    value = UNKNOWN if field.generated else getattr(instance, field.attname, UNKNOWN)
    is_made = hasattr(value, "resolve_expression") or (value is None and field.primary_key)
    return UNKNOWN if is_made else value


def _pair(old: Sequence[Any], new: Sequence[Any]) -> Pair:
    """Return a row before and after a statement, from what the statement has returned of it."""
    if old == new:
        return new, new
    return (old if any(value is not None for value in old) else None), new  # an upsert may insert a row
