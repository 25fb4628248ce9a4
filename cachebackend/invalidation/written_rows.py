"""The rows that statements change which Django does not compile, as caches need them.

A drain of write-behind writes rows by SQL of its own. Its statements return the columns that keys are made of
and the values that queries may bind, as those do that Django compiles (``writes``).
"""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from typing import Any, NamedTuple

from django.db import models
from django.db.models import sql

from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.changes import Pair, TableChanges, paired
from cachebackend.invalidation.columns import ReadColumns, read_values
from cachebackend.invalidation.fetched_rows import FetchError
from cachebackend.invalidation.tables import WatchedTable, watched_tables

__all__ = ["Fetched", "WrittenChange", "WrittenRows"]


class WrittenChange(NamedTuple):
    """What a statement has changed in a table.

    Attributes:
        table: The table.
        changes: The rows; None: the rows that have changed are not known.
        has_values: Whether the rows have the values that queries may bind.
    """

    table: WatchedTable
    changes: TableChanges | None
    has_values: bool


class Fetched(NamedTuple):
    """What a statement has returned.

    Attributes:
        rows: The rows, with the values that the driver returns.
        error: The driver's error if it cannot read one of the values.
    """

    rows: Sequence[Sequence[Any]]
    error: FetchError


class WrittenRows:
    """The rows of a model's own table, for statements that change them.

    Args:
        model: The model.
        using: The alias of the database.
        existing: The columns that the table has.
        with_values: Whether statements return the values that queries may bind. Without them, the results of
            every query that depends on a changed column are wrong.

    Attributes:
        is_cached: Whether anything is cached of the rows.
        fields: The fields of the columns to return, the primary key first.
    """

    def __init__(
        self, model: type[models.Model], using: str, *, existing: Container[str], with_values: bool
    ) -> None:
        self._model, self._with_values = model, with_values
        self._tables = watched_tables(model._meta.db_table)
        self._columns = ReadColumns(model, self._tables, using, with_values=with_values, existing=existing)
        self._compiler = sql.Query(model).get_compiler(using)
        self.is_cached = bool(self._tables)
        self.fields = self._columns.fields

    def needs_old(self, columns: Collection[str]) -> bool:
        """Return whether a statement that sets columns of rows must return their old values, too."""
        return self._columns.may_change(columns)

    def inserted(self, rows: Fetched) -> list[WrittenChange]:
        """Return the changes of a statement that has inserted rows."""
        read = self._read(rows)
        return self._changes(None if read is None else [(None, row) for row in read], is_new=True)

    def deleted(self, rows: Fetched) -> list[WrittenChange]:
        """Return the changes of a statement that has deleted rows."""
        read = self._read(rows)
        return self._changes(None if read is None else [(row, None) for row in read])

    def updated(self, columns: Collection[str], rows: Fetched, old: Fetched | None) -> list[WrittenChange]:
        """Return the changes of a statement that has set columns of rows.

        Args:
            columns: The columns.
            rows: The rows after the statement.
            old: The rows before it; None: the statement ``needs_old`` values of none.
        """
        new, before = self._read(rows), None if old is None else self._read(old)
        if new is None or (old is not None and before is None):
            return self._changes(None)
        pairs: list[Pair] = (
            [(row, row) for row in new] if before is None else paired(before, new, self._columns.key_width)
        )
        if any(old is None for old, _ in pairs):
            return self._changes(None)  # another transaction inserted the row after the old ones were read
        # Without old values, a trigger may have changed a column that the statement does not set
        knows_old = before is not None or not self._columns.has_before_row_triggers
        return self._changes(pairs, self._columns.differing(columns), knows_old=knows_old)

    def _read(self, rows: Fetched) -> list[Sequence[Any]] | None:
        """Return rows with the values that Django reads; None if it cannot read them."""
        if rows.error is not None:
            return None
        try:
            return read_values(self._compiler, self._model, self.fields, rows.rows)
        except Exception as error:  # noqa: BLE001  # a field of the project may raise anything
            raise_interrupt(error)
            return None

    def _changes(
        self,
        pairs: Sequence[Pair] | None,
        columns: frozenset[str] = frozenset(),
        *,
        knows_old: bool = True,
        is_new: bool = False,
    ) -> list[WrittenChange]:
        """Return what rows change in each watched table; None: which rows have changed is not known."""
        if pairs is not None and not pairs:
            return []
        changes: list[WrittenChange] = []
        for table in self._tables:
            rows = None if pairs is None else self._columns.rows_of(table, pairs)
            changed = None
            if rows is not None:
                changed = TableChanges(
                    table, rows, columns, knows_old=knows_old, is_new=is_new, in_migration=False
                )
            changes.append(WrittenChange(table, changed, self._with_values))
        return changes
