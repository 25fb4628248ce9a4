"""The columns of a model's table as the database has them. The model may be of another version."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from django.db import connections, models

__all__ = ["StoredColumn", "is_declared_type", "read_stored_columns"]

# A join with pg_type would read all types of the database.
_COLUMNS = """
    SELECT
        a.attname, a.atttypid, (SELECT t.typtype::text FROM pg_type AS t WHERE t.oid = a.atttypid),
        format_type(a.atttypid, -1), format_type(a.atttypid, a.atttypmod), a.atttypmod
    FROM pg_attribute AS a
    WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""
# A domain may be one of another domain; the last one has the length and the precision. None of this can be
# changed after the domain was created.
_BASES = """
    WITH RECURSIVE base(domain, type, modifier) AS (
        SELECT oid, typbasetype, typtypmod FROM pg_type WHERE oid = ANY(%s)
        UNION ALL
        SELECT base.domain, t.typbasetype, t.typtypmod
        FROM base JOIN pg_type AS t ON t.oid = base.type WHERE t.typtype = 'd'
    )
    SELECT base.domain, t.typtype::text, format_type(t.oid, -1), format_type(t.oid, modifier), modifier
    FROM base JOIN pg_type AS t ON t.oid = base.type WHERE t.typtype <> 'd'
"""
_DOMAIN, _ENUM = "d", "e"
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
#: The types of times, and the modifiers with which they hold microseconds.
_TIMES = {"ts": (-1, 6), "t": (-1, 6), "dur": (-1, 0x7FFFFFFF, 0x7FFF0006)}
#: Types without an encoding of their own which hold each value of a field exactly, or refuse it.
_EXACT = frozenset({"numeric", "json", "xml", "cidr", "macaddr", "macaddr8"})
#: The names by which Django and the SQL standard call the same types.
_NAMES = (("varchar", "charactervarying"), ("char(", "character("))


class StoredColumn(NamedTuple):
    """A column of a table.

    Attributes:
        type: Its type without its length or precision.
        full_type: Its type.
        code: The code of the encoding of its values. None: no encoding is exactly of this type, but it holds
            each value exactly or refuses it. The name of a type: it may round values of any encoding.
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
        columns = cursor.fetchall()
        bases = {}
        if domains := [type_ for _, type_, kind, *_ in columns if kind == _DOMAIN]:
            cursor.execute(_BASES, [domains])
            bases = {domain: base for domain, *base in cursor.fetchall()}
    fields = {field.column: field for field in model._meta.local_concrete_fields}
    stored = {}
    for name, oid, *own in columns:
        kind, type_, full_type, modifier = bases.get(oid, own)
        column = StoredColumn(type_, own[2], _code(kind, type_, full_type, modifier))
        if column.code == full_type and (field := fields.get(name)) is not None:
            # A field that declares the very type may mean the rounding
            column = column._replace(code=None) if is_declared_type(field, using, {name: column}) else column
        stored[name] = column
    return stored


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


def _code(kind: str, type_: str, full_type: str, modifier: int) -> str | None:
    """Return the code of a column that is of no domain (see ``StoredColumn``).

    Args:
        kind: Postgres' kind of type.
        type_: Its type without its length or precision.
        full_type: Its type.
        modifier: What Postgres stores of its length or precision.
    """
    if type_ == "numeric" and modifier >= 0:
        # The scale is in the low 11 bits of the modifier, which is 4 too large; -1: it has no scale
        return f"n{(modifier - 4) & 0x7FF}"
    if kind == _ENUM or type_ in _EXACT:
        return None
    code = _CODES.get(type_.rpartition(".")[2])  # the type of an extension may have the name of its schema
    return full_type if code is None or modifier not in _TIMES.get(code, (modifier,)) else code
