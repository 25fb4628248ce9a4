"""Triggers on the many-to-many tables that Django makes for models with triggers.

Results of queries depend on these tables as on any other. Their models have no migrations of their own, so
``migrate`` creates and replaces the triggers at its end. In a test database without migrations, pgtrigger
creates them with the tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig
from django.db import connections, models
from django.db.models.signals import post_migrate

from cachebackend.invalidation.catalogue_queries import read_table
from cachebackend.invalidation.tables import many_to_many_models
from cachebackend.invalidation.trigger_rows import has_triggers, triggered_models

__all__ = ["add_relation_triggers"]

INSTALLED = "INSTALLED"


def add_relation_triggers() -> None:
    """Add the triggers, once all models are loaded."""
    for through in _relations():
        if not has_triggers(through):
            from cachebackend.invalidation.triggers import register  # needs a package that few projects have

            register(through)
    post_migrate.connect(_after_migrate, dispatch_uid="ringcache:relation_triggers")


def _relations() -> Iterator[type[models.Model]]:
    """Yield the models of the many-to-many tables that Django makes for models with triggers."""
    found = many_to_many_models(triggered_models())
    yield from sorted((each for each in found if each._meta.auto_created), key=lambda each: each._meta.label)


def _after_migrate(
    *, app_config: AppConfig, using: str, plan: Sequence[tuple[Any, bool]] | None = None, **_: Any
) -> None:
    """Create and replace the triggers on tables of one app.

    Args:
        app_config: The app.
        using: The database alias.
        plan: The migrations that have run; None: after ``flush``.
    """
    connection = connections[using]
    if plan is None or connection.vendor != "postgresql":
        return
    for through in _relations():
        table = through._meta
        if table.app_label == app_config.label and read_table(connection, table.db_table) is not None:
            for trigger in getattr(table, "triggers", ()):
                if trigger.get_installation_status(through, database=using)[0] != INSTALLED:
                    trigger.install(through, database=using)
