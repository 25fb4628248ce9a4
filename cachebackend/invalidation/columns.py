"""The columns that a write reads of the rows that it changes.

The model of a statement is not always the model whose rows are cached: a migration has its own
models, and two models may have one table. They may differ in their primary key, and in the type of a
column. So rows are named by the primary key of the statement's model, their values are converted by
its fields, and keys are made of the columns that the cached model has under the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from django.core.exceptions import ValidationError

from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.catalogue import bindable_fields
from cachebackend.invalidation.changes import ChangedRow, Pair
from cachebackend.invalidation.tables import WatchedTable
from cachebackend.invalidation.watched import is_historical

__all__ = ["ReadColumns"]


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

    Attributes:
        fields: A field for each column: the primary key of the statement's model first.
        key_width: How many columns this primary key has.
        names_rows: Whether this primary key is that of the table. A model whose table Django does not
            manage may declare a column that is not unique there, or NULL.
    """

    def __init__(
        self, model: Any, tables: Sequence[WatchedTable], using: str, *, with_values: bool = True
    ) -> None:
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
                if field.column in own or not is_historical(model):  # a migration may not have the column yet
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

    def rows_of(self, table: WatchedTable, pairs: Sequence[Pair]) -> list[ChangedRow] | None:
        """Return changed rows as a cached model has them.

        Args:
            table: The table of that model.
            pairs: The values of ``fields`` of each row, before and after the change.

        Returns:
            None if the rows cannot be named by that model's primary key.
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
            row = {name: convert(values[at]) if convert else values[at] for name, at, convert in readers}
            row["pk"] = row[names[0]] if len(names) == 1 else tuple(row[name] for name in names)
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
