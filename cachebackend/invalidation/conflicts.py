"""The rows that an upsert may update: those with which its new rows conflict.

Before Postgres 18, and elsewhere, an upsert returns new values only. The conflicting rows are locked
and read before it, as an UPDATE's rows are. Except on SQLite, which has one writer, a row can escape:

    1. the upsert's transaction finds no conflicting row;
    2. another transaction inserts one, and commits;
    3. the upsert updates it, and has not read its old values.

So if an upsert returns a row that was not read, it may have old values that are not known. Then all
results of queries over the table are invalidated, and in a many-to-many table everything at its ends.
The key of the row is the same as before, and a row that is cached under an old lookup value is compared
when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.db import models

__all__ = ["conflicting_rows"]

#: New rows that one filter names at most. SQLite limits the depth of a condition to 1000.
ROWS_PER_FILTER = 500


def conflicting_rows(compiler: Any) -> list[models.Q]:
    """Return filters that together match the rows which an upsert updates; none if no row can conflict."""
    query = compiler.query  # an InsertQuery, of an SQLInsertCompiler
    groups = [query.unique_fields] if query.unique_fields else list(unique_groups(query.get_meta()))
    _keep_values(compiler)
    return [
        models.Q(*_conditions(fields, rows[start : start + ROWS_PER_FILTER]), _connector=models.Q.OR)
        for fields in groups
        for rows in [_rows(compiler, fields)]
        for start in range(0, len(rows), ROWS_PER_FILTER)
    ]


def _keep_values(compiler: Any) -> None:
    """Have the statement insert the values that are compared here: a field may make another one each time."""
    make, kept = compiler.pre_save_val, {}

    def pre_save_val(field: Any, instance: Any) -> Any:
        name = field.attname, id(instance)  # the query holds the instance
        if name not in kept:
            kept[name] = make(field, instance)
        return kept[name]

    compiler.pre_save_val = pre_save_val


def unique_groups(meta: Any) -> Iterator[Sequence[models.Field[Any, Any]]]:
    """Yield the columns of each unique constraint of a table that has neither conditions nor expressions."""
    yield meta.pk_fields
    for field in meta.local_concrete_fields:
        if field.unique and not field.primary_key:
            yield [field]
    for names in (*meta.unique_together, *(each.fields for each in meta.total_unique_constraints)):
        yield [meta.get_field(name) for name in names]


def _rows(compiler: Any, fields: Sequence[models.Field[Any, Any]]) -> list[list[Any]]:
    """Return the values of the new rows in these columns, for the rows that can conflict by them."""
    query = compiler.query
    rows = [[_value(compiler, field, instance) for field in fields] for instance in query.objs]
    if _nulls_conflict(query.get_meta(), fields):
        return rows
    return [row for row in rows if None not in row]


def _conditions(fields: Sequence[models.Field[Any, Any]], rows: Sequence[list[Any]]) -> Iterator[models.Q]:
    """Yield filters for the rows that have the same values in these columns as one of the new rows."""
    if len(fields) == 1 and [None] not in rows:
        yield models.Q((f"{fields[0].attname}__in", [value for [value] in rows]))
        return
    for row in rows:
        pairs = zip(fields, row, strict=True)
        yield models.Q(
            *[
                (f"{field.attname}__isnull", True) if value is None else (field.attname, value)
                for field, value in pairs
            ]
        )


def _value(compiler: Any, field: models.Field[Any, Any], instance: Any) -> Any:
    """Return what the statement inserts: a value, an expression, or None, also if a sequence makes it."""
    if field.generated:
        return instance._get_field_expression_map(compiler.query.get_meta())[field.name]
    return compiler.pre_save_val(field, instance)


def _nulls_conflict(meta: Any, fields: Sequence[models.Field[Any, Any]]) -> bool:
    """Return whether two rows conflict that have NULL in the same one of these columns."""
    names = {field.name for field in fields}
    return any(
        constraint.nulls_distinct is False and names == set(constraint.fields)
        for constraint in meta.total_unique_constraints
    )
