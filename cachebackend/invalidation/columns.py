"""The columns that a write reads of the rows that it changes.

The model of a statement is not always the model whose rows are cached: a migration has its own
models, and two models may have one table. They may differ in their primary key, and in the type of a
column. So rows are named by the primary key of the statement's model, their values are converted by
its fields, and keys are made of the columns that the cached model has under the same names.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from typing import Any, TypeAlias

from django.core.exceptions import ValidationError
from django.db import models

from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.catalogue import bindable_fields, catalogue_of
from cachebackend.invalidation.changes import ChangedRow, Pair
from cachebackend.invalidation.tables import WatchedTable
from cachebackend.invalidation.watched import is_historical

__all__ = ["MOST_COLUMNS", "UNKNOWN", "ReadColumns", "read_values"]

#: Columns that a statement reads, at most, unless keys are made of more: it returns each of them twice, and
#: Postgres returns at most 1,664 columns. A value that is not read may be any value.
MOST_COLUMNS = 500
#: Instead of a value that is not known: that of a new row of which the database has returned nothing.
UNKNOWN: Any = object()

# django-stubs says that a column may have no name; only a composite primary key has none
_Field: TypeAlias = Any


class ReadColumns:
    """The columns that a statement on a watched table reads.

    Args:
        model: The concrete model of the statement.
        tables: The watched table, as each cached model has it.
        using: The alias of the database.
        with_values: Whether to read the columns that queries may bind. Without them, all results of the table
            are wrong.
        existing: The columns that the table has; None: those of the models.

    Attributes:
        fields: A field for each column: the primary key of the statement's model first.
        key_width: How many columns this primary key has.
        names_rows: Whether this primary key is that of the table. A model whose table Django does not
            manage may declare a column that is not unique there, or NULL.
    """

    def __init__(
        self,
        model: Any,
        tables: Sequence[WatchedTable],
        using: str,
        *,
        with_values: bool = True,
        existing: Container[str] | None = None,
    ) -> None:
        self._model, self._tables, self._using = model, tables, using
        own = {field.column: field for field in model._meta.local_concrete_fields}
        by_column: dict[str, Any] = {field.column: field for field in model._meta.pk_fields}
        self.key_width = len(by_column)
        managed = [each._meta for each in (model, *(table.model for table in tables)) if each._meta.managed]
        self.names_rows = any(
            {field.column for field in meta.pk_fields} == set(by_column) for meta in managed
        )
        self._by_table: dict[Any, list[_Field]] = {}
        for table in tables:
            for field in self._fields_of(table, using, with_values=with_values):
                is_there = existing is None or field.column in existing
                is_read = field in table.fields or len(by_column) < MOST_COLUMNS
                # A migration may not have the column yet
                if is_there and is_read and (field.column in own or not is_historical(model)):
                    by_column.setdefault(field.column, own.get(field.column, field))
        self.fields = list(by_column.values())
        self._positions = {column: position for position, column in enumerate(by_column)}

    def _fields_of(self, table: WatchedTable, using: str, *, with_values: bool) -> list[_Field]:
        """Return the fields that keys are made of, and those that results of queries are tagged with."""
        fields = list(table.fields)
        if with_values and table.result_aliases:
            fields += [field for field in bindable_fields(table.model, using) if field not in fields]
        self._by_table[table.model] = fields
        return fields

    def may_change(self, columns: Collection[str]) -> bool:
        """Return whether setting columns may change a column that is read: itself, or by a trigger."""
        if not columns or any(field.generated or field.column in columns for field in self.fields):
            return bool(columns)
        if not any(table.result_aliases for table in self._tables):  # keys of old values do no harm
            return False
        return self.has_before_row_triggers

    @property
    def has_before_row_triggers(self) -> bool:
        """Whether triggers may change other columns of a row than a statement names."""
        return catalogue_of(self._model._meta.db_table, self._using).has_before_row_triggers

    def differing(self, columns: Collection[str]) -> frozenset[str]:
        """Return the columns that may differ in a row in which columns are set: those, and generated ones."""
        generated = (field.column for field in self._model._meta.local_concrete_fields if field.generated)
        return frozenset(columns).union(generated) if columns else frozenset()

    def rows_of(self, table: WatchedTable, pairs: Sequence[Pair]) -> list[ChangedRow] | None:
        """Return changed rows as a cached model has them.

        Args:
            table: The table of that model.
            pairs: The values of ``fields`` of each row, before and after the change.

        Returns:
            The rows, without values that are UNKNOWN. None if the rows cannot be named by that model's
            primary key.
        """
        fields: Sequence[_Field] = self._by_table[table.model]
        known = [field for field in fields if field.column in self._positions]
        if not all(field in known for field in table.model._meta.pk_fields):
            return None
        readers = [(field.attname, self._positions[field.column], self._conversion(field)) for field in known]
        names = [field.attname for field in table.model._meta.pk_fields]

        def read(values: Sequence[Any] | None) -> dict[str, Any] | None:
            if values is None:
                return None
            row = {
                name: convert(values[at]) if convert else values[at]
                for name, at, convert in readers
                if values[at] is not UNKNOWN
            }
            row["pk"] = row.get(names[0]) if len(names) == 1 else tuple(row.get(name) for name in names)
            return row

        try:
            return [
                ChangedRow(before := read(old), before if new is old else read(new)) for old, new in pairs
            ]
        except (TypeError, ValueError, ValidationError) as error:
            raise_interrupt(error)
            return None

    def _conversion(self, field: _Field) -> Any:
        """Return what converts a column to the type of the cached model; None if it has this type."""
        read_by = self.fields[self._positions[field.column]]
        return None if type(read_by) is type(field) else field.to_python


def read_values(
    compiler: Any, model: type[models.Model], fields: Sequence[Any], rows: Sequence[Sequence[Any]]
) -> list[Sequence[Any]]:
    """Return rows with the values that Django reads, from the values that the driver has returned.

    Args:
        compiler: A compiler of a query of the rows' database.
        model: The model of the rows' table.
        fields: The field of each column.
        rows: The rows.
    """
    columns: list[Any] = [field.get_col(model._meta.db_table) for field in fields]
    converters = compiler.get_converters(columns)
    return list(compiler.apply_converters(rows, converters)) if converters else list(rows)
