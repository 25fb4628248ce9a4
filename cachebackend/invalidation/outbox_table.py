"""The outbox's table: which databases can have it, and which have it already."""

from __future__ import annotations

from django.apps import apps
from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper

from cachebackend.models import OutboxRow

__all__ = ["has_outbox", "look_for_outbox", "may_have_outbox"]

#: The vendor that Django gives a database alias for which the settings name no engine.
NO_DATABASE = "unknown"
#: The databases, by alias and name, in which this process has seen the outbox's table.
_with_table: set[tuple[str, str]] = set()


def may_have_outbox(using: str) -> bool:
    """Return whether a database can have the outbox's table: the app is installed and no router forbids it.

    It asks the settings only, so it needs no connection.
    """
    is_configured = connections[using].vendor != NO_DATABASE
    return (
        is_configured and apps.is_installed("cachebackend") and router.allow_migrate_model(using, OutboxRow)
    )


def has_outbox(using: str) -> bool:
    """Return whether a database has the outbox's table.

    Before ``migrate`` has made the table, nothing can write to it: a statement that fails would end
    the caller's transaction on Postgres. So the database is asked, until it has the table.
    """
    if not may_have_outbox(using):
        return False
    connection = connections[using]
    database = using, str(connection.settings_dict["NAME"])  # a test database has another name
    if database not in _with_table and _has_table(connection):
        _with_table.add(database)
    return database in _with_table


def look_for_outbox(using: str) -> bool:
    """Ask a database again whether it has the outbox's table: its migrations have run."""
    _with_table.difference_update([each for each in _with_table if each[0] == using])
    return has_outbox(using)


def _has_table(connection: BaseDatabaseWrapper) -> bool:
    table = OutboxRow._meta.db_table
    with connection.cursor() as cursor:
        if connection.vendor != "postgresql":
            return table in connection.introspection.table_names(cursor)
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [connection.ops.quote_name(table)])
        return bool(cursor.fetchone()[0])
