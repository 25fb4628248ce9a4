"""Columns in which the database holds different texts equal, by its own catalogue.

A cached absence is deleted under the text that a new row has. In a column that ignores case, the
absence of ``"BOB"`` would outlive the insert of ``"bob"``. Python cannot know what a collation holds
equal, so such a column cannot be a lookup, and the absence of such a primary key is not cached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper

from cachebackend.backend.canonical import is_text
from cachebackend.backend.open_transactions import found_by

__all__ = ["EXACT_IN_MYSQL", "inexact_collation", "inexact_column"]

#: The columns that were found to be exact: database alias and name, table, column.
_exact: dict[tuple[str, str, str, str], None] = {}
#: The only collations of MySQL and MariaDB that neither ignore case nor trailing spaces.
EXACT_IN_MYSQL = ("utf8mb4_0900_bin", "utf8mb4_nopad_bin", "binary")
#: The types of Postgres that hold no different texts equal, if the collation does not. A column that
#: Django has not made may have another type, such as ``uuid``, ``macaddr``, or an enumeration.
_EXACT_IN_POSTGRES = ("text", "varchar")
_ENUM = "e"

_POSTGRES = """
    SELECT b.typname, b.typtype, l.collisdeterministic, l.collname
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.oid = a.atttypid
    JOIN pg_type AS b ON b.oid = COALESCE(NULLIF(t.typbasetype, 0), t.oid)
    LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
    WHERE a.attrelid = to_regclass(%s) AND a.attname = %s
"""
#: A column that is unique has an index, with the column's own collation.
_SQLITE = """
    SELECT part.coll
    FROM pragma_index_list(%s) AS list, pragma_index_xinfo(list.name) AS part
    WHERE list."unique" AND part.name = %s AND part.coll != 'BINARY'
"""
_MYSQL = """
    SELECT collation_name FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = %s AND column_name = %s
"""


def inexact_collation(field: models.Field[Any, Any], using: str) -> str | None:
    """Return why different texts can be equal in a column that Django's own methods compare as text.

    None: they cannot be equal, or the field is of another class.
    """
    return inexact_column(field, using) if is_text(field) else None


def inexact_column(field: models.Field[Any, Any], using: str) -> str | None:
    """Return why different texts can be equal in a column of text; None: they cannot.

    The answer None is remembered: a process runs one query for each column. If the transaction has settings
    of its own, it is remembered for that transaction: by another ``search_path`` the name may be that of
    another table.
    """
    connection = connections[using]
    reason_of = _REASONS.get(connection.vendor)
    table, column = field.model._meta.db_table, str(field.column)
    place = (using, str(connection.settings_dict["NAME"]), table, column)
    if reason_of is None or place in _exact:
        return None
    known = found_by(connection, _exact)
    if place in known:
        return None
    reason = reason_of(connection, table, column)
    if reason is None:
        known[place] = None
    return reason


def _reason_in_postgres(connection: BaseDatabaseWrapper, table: str, column: str) -> str | None:
    with connection.cursor() as cursor:
        cursor.execute(_POSTGRES, [connection.ops.quote_name(table), column])
        row = cursor.fetchone()
    if row is None:
        return None
    type_name, kind, is_deterministic, collation = row
    if type_name not in _EXACT_IN_POSTGRES and kind != _ENUM:
        return f"the type {'char(n)' if type_name == 'bpchar' else type_name}"
    return f"the collation {collation}, which is not deterministic" if is_deterministic is False else None


def _reason_in_sqlite(connection: BaseDatabaseWrapper, table: str, column: str) -> str | None:
    with connection.cursor() as cursor:
        cursor.execute(_SQLITE, [table, column])
        row = cursor.fetchone()
    return None if row is None else f"the collation {row[0]}"


def _reason_in_mysql(connection: BaseDatabaseWrapper, table: str, column: str) -> str | None:
    with connection.cursor() as cursor:
        cursor.execute(_MYSQL, [table, column])
        row = cursor.fetchone()
    return None if row is None or row[0] in {None, *EXACT_IN_MYSQL} else f"the collation {row[0]}"


_REASONS: dict[str, Callable[[BaseDatabaseWrapper, str, str], str | None]] = {
    "postgresql": _reason_in_postgres,
    "sqlite": _reason_in_sqlite,
    "mysql": _reason_in_mysql,
}
