"""Queries whose SQL is made once: for those that run often, making it takes longer than the database does.

The SQL is Django's own, so a query that is executed again and again is written like any other one. Only
the values differ, and each takes the place of a ``Parameter``::

    by_label = RememberedQuery(lambda using: Row.objects.filter(label=Parameter("label", Row, "label")))
    by_label.rows("default", label="x")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import sql
from django.db.models.expressions import Expression
from django.db.models.sql.compiler import SQLCompiler

__all__ = ["Parameter", "RememberedQuery", "RememberedUpdate"]


class Parameter(Expression):
    """A place in a query for a value that each execution gives.

    Args:
        name: The name of the value.
        model: The model of the column that the value is compared with or assigned to.
        column: The name of its field.
    """

    def __init__(self, name: str, model: type[models.Model], column: str) -> None:
        field: Any = model._meta.pk if column == "pk" else model._meta.get_field(column)
        super().__init__(output_field=field)
        self.name = name

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper) -> Any:
        """Return a placeholder, and the parameter itself instead of its value."""
        return "%s", (self,)

    def value(self, values: dict[str, Any], connection: BaseDatabaseWrapper) -> Any:
        """Return the value as the database driver takes it."""
        field: Any = self.output_field
        return field.get_db_prep_value(values[self.name], connection)


class _Compiled(NamedTuple):
    """The SQL of a query in one database.

    Attributes:
        text: The SQL.
        parameters: Its parameters; those that each execution gives are ``Parameter``.
        converters: What Django converts columns of a row with, by position, and the expressions of these
            columns.
    """

    text: str
    parameters: Sequence[Any]
    converters: Mapping[int, tuple[Sequence[Callable[..., Any]], Any]]


class _Remembered:
    """A query, compiled once for each database."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[str, str], _Compiled] = {}

    def _compile(self, using: str) -> _Compiled:
        raise NotImplementedError

    def _execute(self, using: str, values: dict[str, Any]) -> tuple[_Compiled, Any]:
        connection = connections[using]
        compiled = self._compiled.get((using, connection.vendor))
        if compiled is None:
            compiled = self._compiled[using, connection.vendor] = self._compile(using)
        cursor = connection.cursor()
        cursor.execute(
            compiled.text,
            [
                each.value(values, connection) if isinstance(each, Parameter) else each
                for each in compiled.parameters
            ],
        )
        return compiled, cursor


class RememberedQuery(_Remembered):
    """A SELECT.

    Args:
        build: Returns its queryset for the alias of a database. It has ``values_list``, and selects nothing
            that depends on the time zone or the language.
    """

    def __init__(self, build: Callable[[str], models.QuerySet[Any, Any]]) -> None:
        super().__init__()
        self._build = build

    def rows(self, using: str, **values: Any) -> list[tuple[Any, ...]]:
        """Execute the query with some values and return its rows."""
        compiled, cursor = self._execute(using, values)
        with cursor:
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        if not compiled.converters:
            return rows
        return [_converted(row, compiled, connections[using]) for row in rows]

    def _compile(self, using: str) -> _Compiled:
        compiler = self._build(using).query.get_compiler(using)
        text, parameters = compiler.as_sql()
        converters = compiler.get_converters([column for column, _, _ in compiler.select])
        return _Compiled(text, parameters, converters)


class RememberedUpdate(_Remembered):
    """An UPDATE.

    Args:
        build: Returns the queryset of the rows to change, for the alias of a database.
        changes: For each field its new value, as for ``QuerySet.update``.
    """

    def __init__(self, build: Callable[[str], models.QuerySet[Any, Any]], **changes: Any) -> None:
        super().__init__()
        self._build = build
        self._changes = changes

    def update(self, using: str, **values: Any) -> int:
        """Execute the statement with some values; return the number of changed rows."""
        _, cursor = self._execute(using, values)
        with cursor:
            return int(cursor.rowcount)

    def _compile(self, using: str) -> _Compiled:
        query: Any = self._build(using).query.chain(sql.UpdateQuery)
        query.add_update_values(self._changes)
        text, parameters = query.get_compiler(using).as_sql()
        return _Compiled(text, parameters, {})


def _converted(row: tuple[Any, ...], compiled: _Compiled, connection: BaseDatabaseWrapper) -> tuple[Any, ...]:
    """Return a row with the values that Django reads, from those that the driver returned."""
    values = list(row)
    for position, (converters, expression) in compiled.converters.items():
        for convert in converters:
            values[position] = convert(values[position], expression, connection)
    return tuple(values)
