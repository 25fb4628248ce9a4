"""The threads that ask databases, whose connections a test that adds a database has to close."""

from __future__ import annotations

from django.db import connections

from cachebackend.invalidation import outbox_databases
from cachebackend.invalidation.own_thread import Outcome

__all__ = ["close_connections"]


def close_connections(alias: str) -> None:
    """Close the connections of these threads to a database that is removed now."""
    for asker in outbox_databases._askers.pop(alias, ()):
        closed: Outcome[None] = Outcome()
        asker.begin(lambda using: connections[using].close(), closed)
        closed.result(10)
