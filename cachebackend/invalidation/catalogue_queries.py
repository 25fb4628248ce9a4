"""The queries that ask a database what it knows of a table, one for each kind of database.

On Postgres the catalogue is exact. On SQLite and MySQL fewer columns can be bound, and every trigger
counts as one that changes the row. On other databases nothing is known, so nothing is cached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from cachebackend.backend.collations import EXACT_IN_MYSQL

__all__ = ["read_table"]

#: The kind of values, by the type of a column of Postgres. Floats, intervals, ``char(n)``, JSON and citext
#: hold values equal that differ in Python, or the other way round. Values of ``text`` may be of any length. A
#: ``numeric`` without a scale holds 1.0 and 1.00 equal, and shows both as they are.
_POSTGRES_KINDS = {
    "bool": "boolean",
    "date": "date",
    "int2": "integer",
    "int4": "integer",
    "int8": "integer",
    "numeric": "decimal",
    "timestamptz": "moment",
    "uuid": "uuid",
    "varchar": "text",
}
_POSTGRES = """
    SELECT c.relkind = 'r' AND c.relpersistence = 'p' AND NOT c.relhasrules,
        c.relrowsecurity,
        c.relkind = 'p' OR c.relispartition
            OR EXISTS (SELECT FROM pg_inherits AS i WHERE c.oid IN (i.inhrelid, i.inhparent)),
        EXISTS (
            SELECT FROM pg_trigger AS g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgtype & 3 = 3
        ),
        EXISTS (
            SELECT FROM pg_constraint AS r WHERE r.conrelid = c.oid AND r.contype = 'f'
                AND (r.confdeltype IN ('c', 'n', 'd') OR r.confupdtype IN ('c', 'n', 'd'))
        ),
        EXISTS (SELECT FROM pg_trigger AS g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal) OR EXISTS (
            SELECT FROM pg_constraint AS r WHERE r.confrelid = c.oid AND r.contype = 'f'
                AND (r.confdeltype IN ('c', 'n', 'd') OR r.confupdtype IN ('c', 'n', 'd'))
        ),
        ARRAY(
            SELECT ARRAY[a.attname::text, t.typname::text, (a.attgenerated <> '')::text,
                (COALESCE(k.collisdeterministic, true)
                    AND (t.typname NOT IN ('numeric', 'varchar') OR a.atttypmod <> -1))::text]
            FROM pg_attribute AS a
            JOIN pg_type AS t ON t.oid = a.atttypid
            LEFT JOIN pg_collation AS k ON k.oid = a.attcollation
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        )
    FROM pg_class AS c WHERE c.oid = to_regclass(%s)
"""
#: The kind of values, by the first word of the type of a column that Django makes on SQLite.
_SQLITE_KINDS = {
    "bigint": "integer",
    "bool": "boolean",
    "char(32)": "uuid",
    "date": "date",
    "integer": "integer",
    "smallint": "integer",
    "varchar": "text",
}
_SQLITE = "SELECT type, sql FROM sqlite_master WHERE name = %s AND type IN ('table', 'view')"
_SQLITE_COLUMNS = "SELECT name, lower(type), hidden FROM pragma_table_xinfo(%s)"
_SQLITE_TRIGGERS = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s"
_SQLITE_CASCADES = """
    SELECT count(*) FROM pragma_foreign_key_list(%s)
    WHERE on_delete NOT IN ('NO ACTION', 'RESTRICT') OR on_update NOT IN ('NO ACTION', 'RESTRICT')
"""
_MYSQL_KINDS = {
    "bigint": "integer",
    "char": "uuid",
    "date": "date",
    "decimal": "decimal",
    "int": "integer",
    "smallint": "integer",
    "tinyint": "boolean",
    "varchar": "text",
}
_MYSQL = """
    SELECT table_type = 'BASE TABLE' AND create_options NOT LIKE '%%partitioned%%'
    FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s
"""
_MYSQL_COLUMNS = """
    SELECT column_name, data_type, collation_name, extra FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = %s
"""
_MYSQL_TRIGGERS = """
    SELECT count(*) FROM information_schema.triggers
    WHERE event_object_schema = DATABASE() AND event_object_table = %s
"""
_MYSQL_CASCADES = """
    SELECT count(*) FROM information_schema.referential_constraints
    WHERE constraint_schema = DATABASE() AND table_name = %s
        AND (delete_rule NOT IN ('NO ACTION', 'RESTRICT') OR update_rule NOT IN ('NO ACTION', 'RESTRICT'))
"""


def read_table(connection: BaseDatabaseWrapper, table: str) -> dict[str, Any] | None:
    """Return the attributes of a ``TableCatalogue``; None if there is no such table.

    Args:
        connection: The connection to the database.
        table: The ``db_table`` of a model.
    """
    read = _READERS.get(connection.vendor)
    return None if read is None else read(connection, table)


def _read_postgres(connection: BaseDatabaseWrapper, table: str) -> dict[str, Any] | None:
    rows = _rows(connection, _POSTGRES, connection.ops.quote_name(table))
    if not rows:
        return None
    is_table, has_row_security, inherits, has_triggers, cascades, may_change, columns = rows[0]
    return {
        "kinds": {
            name: _POSTGRES_KINDS[type_name]
            for name, type_name, _, is_bindable in columns
            if type_name in _POSTGRES_KINDS and is_bindable == "true"
        },
        "generated": frozenset(name for name, _, is_generated, _ in columns if is_generated == "true"),
        "has_before_row_triggers": has_triggers,
        "is_partition_or_inherits": inherits,
        "has_row_security": has_row_security,
        "is_changed_by_cascade": cascades,
        "may_change_other_rows": may_change,
        "is_table": is_table,
    }


def _read_sqlite(connection: BaseDatabaseWrapper, table: str) -> dict[str, Any] | None:
    rows = _rows(connection, _SQLITE, table)
    if not rows:
        return None
    [(kind, definition)] = rows
    columns = _rows(connection, _SQLITE_COLUMNS, table)
    kinds = {name: _sqlite_kind(declared, definition) for name, declared, _ in columns}
    return {
        "kinds": {name: kind for name, kind in kinds.items() if kind is not None},
        "generated": frozenset(name for name, _, hidden in columns if hidden in {2, 3}),
        "has_before_row_triggers": bool(_rows(connection, _SQLITE_TRIGGERS, table)[0][0]),
        "is_changed_by_cascade": bool(_rows(connection, _SQLITE_CASCADES, table)[0][0]),
        "is_table": kind == "table",
    }


def _sqlite_kind(declared: str, definition: str) -> str | None:
    """Return the kind of a column of SQLite, which does not report the collation of each column."""
    word = declared.partition("(")[0].partition(" ")[0]
    kind = _SQLITE_KINDS.get(declared) or _SQLITE_KINDS.get(word)
    return None if kind == "text" and "collate" in definition.lower() else kind


def _read_mysql(connection: BaseDatabaseWrapper, table: str) -> dict[str, Any] | None:
    rows = _rows(connection, _MYSQL, table)
    if not rows:
        return None
    columns = _rows(connection, _MYSQL_COLUMNS, table)
    return {
        "kinds": {
            name: _MYSQL_KINDS[data_type]
            for name, data_type, collation, _ in columns
            if data_type in _MYSQL_KINDS and (data_type != "varchar" or collation in EXACT_IN_MYSQL)
        },
        # "DEFAULT_GENERATED" is a column with a default; "on update CURRENT_TIMESTAMP" changes like a trigger
        "generated": frozenset(name for name, _, _, extra in columns if " GENERATED" in extra.upper()),
        "has_before_row_triggers": any("ON UPDATE" in extra.upper() for *_, extra in columns)
        or bool(_rows(connection, _MYSQL_TRIGGERS, table)[0][0]),
        "is_changed_by_cascade": bool(_rows(connection, _MYSQL_CASCADES, table)[0][0]),
        "is_table": bool(rows[0][0]),
    }


def _rows(connection: BaseDatabaseWrapper, query: str, table: str) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(query, [table])
        return list(cursor.fetchall())


_READERS: dict[str, Callable[[BaseDatabaseWrapper, str], dict[str, Any] | None]] = {
    "mysql": _read_mysql,
    "postgresql": _read_postgres,
    "sqlite": _read_sqlite,
}
