"""Databases that batches cannot be drained to: only Postgres has the statements of a drain."""

from __future__ import annotations

from importlib.util import find_spec

from django.db import connections, models

from cachebackend.backend.engine_names import engine_name

__all__ = ["engine_fault"]

#: Django also works with psycopg2, which cannot send a batch.
_HAS_PSYCOPG = find_spec("psycopg") is not None


def engine_fault(model: type[models.Model], using: str) -> str | None:
    """Return why queued writes of a model would never reach a database; None if they would.

    Args:
        model: The model.
        using: The database alias that the routers return for its writes.
    """
    if connections[using].vendor == "postgresql":
        if _HAS_PSYCOPG:
            return None
        return (
            f"{model._meta.label}: write-behind needs psycopg 3, which is not installed: "
            "pip install 'django-ringcache[postgres]'"
        )
    return (
        f"{model._meta.label}: write-behind needs Postgres, and database {using!r} is "
        f"{engine_name(using)}; write the rows with save()"
    )
