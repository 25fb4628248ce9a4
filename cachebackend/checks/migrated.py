"""What the migrations of a database have made.

``migrate`` runs the checks of its database first. A database without any table is therefore not reported:
the first ``migrate`` may be running. One that Django has never migrated, and that has tables of others, is.
"""

from __future__ import annotations

from django.db import Error, connections
from django.db.migrations.loader import MigrationLoader

from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.outbox_table import has_outbox

__all__ = ["is_empty", "lacks_outbox", "missing_migrations"]


def is_empty(using: str) -> bool:
    """Return whether a database has no table, or cannot be reached: `migrate` says that."""
    try:
        return not connections[using].introspection.table_names()
    except Error as error:
        raise_interrupt(error)
        return True


def lacks_outbox(using: str) -> bool:
    """Return whether a database has tables, but not that of the outbox."""
    try:
        return not has_outbox(using) and not is_empty(using)
    except Error as error:  # a database that cannot be reached: `migrate` says so
        raise_interrupt(error)
        return False


def missing_migrations(using: str) -> list[str]:
    """Return the migrations of this app that a database lacks, if it has tables at all."""
    try:
        loader = MigrationLoader(connections[using], ignore_no_migrations=True)
    except Error as error:  # a database that cannot be reached: `migrate` says so
        raise_interrupt(error)
        return []
    if is_empty(using):
        return []
    known = {key for key in loader.disk_migrations if key[0] == "cachebackend"}
    return sorted(name for _, name in known - set(loader.applied_migrations))
