"""The names of database engines, for messages."""

from __future__ import annotations

from django.db import connections

__all__ = ["engine_name"]


def engine_name(using: str) -> str:
    """Return the name of the engine of a database, such as ``SQLite``; never connects to the database.

    For MySQL and MariaDB, Django's ``display_name`` asks the server which of the two it is. A system check of
    models must not do that, and a message about a server that does not answer cannot.
    """
    connection = connections[using]
    return "MySQL or MariaDB" if connection.vendor == "mysql" else connection.display_name
