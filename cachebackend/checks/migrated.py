"""What the migrations of a database have made.

``migrate`` runs the checks of its database first. A database without any migration is therefore not
reported: the first ``migrate`` may be running.
"""

from __future__ import annotations

from django.db import Error, connections
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from cachebackend.invalidation.outbox_table import has_outbox

__all__ = ["lacks_outbox", "missing_migrations"]


def lacks_outbox(using: str) -> bool:
    """Return whether a database has migrations, but no table of the outbox."""
    try:
        return not has_outbox(using) and bool(MigrationRecorder(connections[using]).applied_migrations())
    except Error:  # a database that cannot be reached: `migrate` says so
        return False


def missing_migrations(using: str) -> list[str]:
    """Return the migrations of this app that a database lacks, if it has migrations at all."""
    try:
        loader = MigrationLoader(connections[using], ignore_no_migrations=True)
    except Error:  # a database that cannot be reached: `migrate` says so
        return []
    if not loader.applied_migrations:
        return []
    known = {key for key in loader.disk_migrations if key[0] == "cachebackend"}
    return sorted(name for _, name in known - set(loader.applied_migrations))
