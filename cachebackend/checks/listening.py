"""The check of the connection on which the relay listens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Warning  # noqa: A004  # Django's name
from django.db import Error as DatabaseError
from django.db import connections, router

from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.relay_listener import receives_notifications
from cachebackend.invalidation.trigger_rows import triggered_models

__all__ = ["check_notifications"]


def check_notifications(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """ringcache.W014: a model has triggers, but no notification of its database reaches the relay."""
    triggered = {router.db_for_write(model) for model in triggered_models()}
    return [
        Warning(
            f"Database {using!r} sends no notifications to a connection that listens, so `invalidation relay "
            "--listen` handles the rows of triggers only once a second.",
            hint="A pooler such as pgbouncer in transaction mode shares its connections. Name the server "
            f"itself: RINGCACHE = {{'listen': {{{using!r}: {{'HOST': …, 'PORT': …}}}}}}.",
            id="ringcache.W014",
        )
        for using in sorted(triggered.intersection(databases or ()))
        if connections[using].vendor == "postgresql" and not _receives(using)
    ]


def _receives(using: str) -> bool:
    try:
        return receives_notifications(using)
    except DatabaseError as error:  # a database that cannot be reached: `migrate` says so
        raise_interrupt(error)
        return True
