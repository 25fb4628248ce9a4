"""Databases that batches cannot be drained to: only Postgres has the statements of a drain."""

from __future__ import annotations

from django.db import connections, models

__all__ = ["engine_fault"]


def engine_fault(model: type[models.Model], using: str) -> str | None:
    """Return why queued writes of a model would never reach a database; None if they would.

    Args:
        model: The model.
        using: The database alias that the routers return for its writes.
    """
    if connections[using].vendor == "postgresql":
        return None
    return (
        f"{model._meta.label}: write-behind needs Postgres, and database {using!r} is "
        f"{connections[using].display_name}; write the rows with save()"
    )
