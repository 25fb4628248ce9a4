"""The outbox's table: which databases can have it, and which have it already."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from django.apps import apps
from django.db import DatabaseError, DataError, IntegrityError, connections, router
from django.db.backends.base.base import BaseDatabaseWrapper

from cachebackend.models import OutboxRow

__all__ = ["asking_again", "forget_outbox", "has_outbox", "look_for_outbox", "may_have_outbox"]

logger = logging.getLogger("cachebackend")

#: The vendor that Django gives a database alias for which the settings name no engine.
NO_DATABASE = "unknown"
#: The databases, by alias and name, in which this process has seen the outbox's table.
_with_table: set[tuple[str, str]] = set()
#: Those of them that must be asked again, because a statement has failed since.
_in_doubt: set[tuple[str, str]] = set()


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
    the caller's transaction on Postgres. So the database is asked, until it has the table, and again
    after a statement on the table has failed.
    """
    if not may_have_outbox(using):
        return False
    connection = connections[using]
    database = using, str(connection.settings_dict["NAME"])  # a test database has another name
    if database not in _with_table:
        if _has_table(connection):
            _with_table.add(database)
        elif database in _in_doubt:
            extra = {"event": "outbox_missing", "database": using}
            logger.error("the outbox of database %r is gone: writes do not use it", using, extra=extra)
        _in_doubt.discard(database)
    return database in _with_table


def forget_outbox(using: str) -> None:
    """Let the next statement look again: one has failed, and the table may be renamed, moved or dropped."""
    seen = {database for database in _with_table.copy() if database[0] == using}
    _in_doubt.update(seen)
    _with_table.difference_update(seen)


@contextmanager
def asking_again(using: str) -> Iterator[None]:
    """Execute a statement that names the outbox inside this block: if it fails, the next one looks again.

    An error of the values that a statement writes says nothing about the table.
    """
    try:
        yield
    except (DataError, IntegrityError):
        raise
    except DatabaseError:
        forget_outbox(using)
        raise


def look_for_outbox(using: str) -> bool:
    """Ask a database again whether it has the outbox's table: its migrations have run."""
    forget_outbox(using)
    _in_doubt.clear()  # migrations may drop it
    return has_outbox(using)


def _has_table(connection: BaseDatabaseWrapper) -> bool:
    table = OutboxRow._meta.db_table
    with connection.cursor() as cursor:
        if connection.vendor != "postgresql":
            return table in connection.introspection.table_names(cursor)
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [connection.ops.quote_name(table)])
        return bool(cursor.fetchone()[0])
