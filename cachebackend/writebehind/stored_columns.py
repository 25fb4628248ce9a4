"""The columns of a model's table as the database has them. The model may be of another version."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from django.db import connections, models

__all__ = ["StoredColumn", "is_declared_type", "read_stored_columns"]

# A join with pg_type would read all types of the database. A type that is not a domain has the base type 0.
_COLUMNS = """
    SELECT
        a.attname,
        format_type(COALESCE(
            NULLIF((SELECT t.typbasetype FROM pg_type AS t WHERE t.oid = a.atttypid), 0), a.atttypid
        ), -1),
        format_type(a.atttypid, a.atttypmod),
        a.atttypmod
    FROM pg_attribute AS a
    WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""
# The subquery returns nothing. It makes Postgres lock the table before it takes the statement's snapshot
# of the catalog, so that no migration changes the columns until the transaction ends.
_LOCK = "AND NOT EXISTS (SELECT FROM {table} WHERE false)"
#: The code of the encoding of Postgres' types; that of numeric has the number of decimal places.
_CODES = (
    dict.fromkeys(("smallint", "integer", "bigint"), "i")
    | dict.fromkeys(("real", "double precision"), "f")
    | dict.fromkeys(("text", "character varying", "bpchar", "citext", "inet"), "s")
    | dict.fromkeys(("timestamp with time zone", "timestamp without time zone"), "ts")
    | {"date": "d", "time without time zone": "t", "interval": "dur"}
    | {"boolean": "b", "uuid": "u", "bytea": "x", "jsonb": "j"}
)
#: The names by which Django and the SQL standard call the same types.
_NAMES = (("varchar", "charactervarying"), ("char(", "character("))


class StoredColumn(NamedTuple):
    """A column of a table.

    Attributes:
        type: Its type without its length or precision.
        full_type: Its type.
        code: The code of the encoding of its values; None if no encoding is exactly of this type.
    """

    type: str
    full_type: str
    code: str | None


def read_stored_columns(
    model: type[models.Model], using: str, *, lock: bool = True
) -> dict[str, StoredColumn]:
    """Return the columns of a model's table by name; none if the database is not Postgres.

    Args:
        model: The model.
        using: The alias of the database.
        lock: Whether no other transaction may change the columns before the current one ends.

    Raises:
        django.db.Error: The table cannot be locked, for it does not exist or may not be read.
    """
    connection = connections[using]
    if connection.vendor != "postgresql":
        return {}
    table = connection.ops.quote_name(model._meta.db_table)
    sql = _COLUMNS + (_LOCK.format(table=table.replace("%", "%%")) if lock else "")
    with connection.cursor() as cursor:
        cursor.execute(sql, [table])
        return {
            column: StoredColumn(type_, full_type, _code(type_, modifier))
            for column, type_, full_type, modifier in cursor.fetchall()
        }


def is_declared_type(field: models.Field[Any, Any], using: str, stored: Mapping[str, StoredColumn]) -> bool:
    """Return whether a field's column has the type, the length and the precision that the field declares."""
    column = stored.get(str(field.column))
    return column is None or _normal(str(field.db_type(connections[using]))) == _normal(column.full_type)


def _normal(type_: str) -> str:
    normal = re.sub(r"\s", "", type_).lower()
    if not normal.startswith("character"):
        for name, standard in _NAMES:
            normal = normal.replace(name, standard)
    return normal


def _code(type_: str, modifier: int) -> str | None:
    if type_ == "numeric":
        # The scale is in the low 11 bits of the modifier, which is 4 too large; -1: it has no scale
        return None if modifier < 0 else f"n{(modifier - 4) & 0x7FF}"
    return _CODES.get(type_.rpartition(".")[2])  # the type of an extension may have the name of its schema
