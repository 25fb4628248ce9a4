"""A router that sends each tenant to its own database."""

from __future__ import annotations

from typing import Any

from django.db import DEFAULT_DB_ALIAS, models

from tests.zoo.models import FAMILIES

__all__ = ["Tenants"]


class Tenants:
    """Routes the models of the family ``databases`` to the database of the current tenant.

    Attributes:
        current: The alias of that database, for all threads: a test runs one step at a time.
    """

    current = DEFAULT_DB_ALIAS

    def db_for_read(self, model: type[models.Model], **_: Any) -> str | None:
        return Tenants.current if model in FAMILIES["databases"] else None

    db_for_write = db_for_read
