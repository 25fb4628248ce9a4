"""The tables of a query: whether something sees all changes of their rows."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.db import models
from django.db.models.signals import class_prepared

from cachebackend.conf import current_namespace
from cachebackend.invalidation.catalogue import TableCatalogue, catalogue_of
from cachebackend.invalidation.tables import table_name, watched_tables
from cachebackend.queries.not_cached import NotCached

__all__ = [
    "Rules",
    "has_cacheable_rows",
    "has_triggers",
    "ignored_columns",
    "is_plain_table",
    "is_watched",
    "model_of_table",
    "watched_catalogue",
]


def is_watched(table: str) -> bool:
    """Return whether the invalidation watches a table."""
    return bool(watched_tables(table))


def has_triggers(table: str) -> bool:
    """Return whether triggers of a ``CachedManager`` see changes that the database itself makes."""
    return any(
        getattr(dependent, "has_triggers", False) and model._meta.db_table == table
        for watched in watched_tables(table)
        for model, dependent in watched.dependents
    )


def ignored_columns(table: str) -> Collection[str]:
    """Return the columns of a table that a ``CachedManager`` ignores: results may be older than they are."""
    return {
        str(field.column)
        for watched in watched_tables(table)
        for model, dependent in watched.dependents
        for field in model._meta.concrete_fields
        if field.name in getattr(dependent, "ignore", ())
        and table_name(field.model._meta.db_table) == table_name(table)
    }


@dataclass(frozen=True, slots=True)
class Rules:
    """What the caller knows of tables, by the ``db_table`` of their models.

    Attributes:
        is_watched: Whether every write of Django to a table is seen.
        has_triggers: Whether changes are seen that the database itself makes, such as cascades.
        ignored: The columns of which results may be older than the table.
    """

    is_watched: Callable[[str], bool] = is_watched
    has_triggers: Callable[[str], bool] = has_triggers
    ignored: Callable[[str], Collection[str]] = ignored_columns


_models: dict[str, type[models.Model]] = {}


def model_of_table(table: str) -> type[models.Model] | None:
    """Return the model of a table; the one that Django manages, if there are several."""
    if not _models:
        found = [each for each in apps.get_models(include_auto_created=True) if not each._meta.proxy]
        for model in sorted(found, key=lambda each: each._meta.managed):
            _models[table_name(model._meta.db_table)] = model
    return _models.get(table_name(table))


def _forget_models(**_: Any) -> None:
    _models.clear()


class_prepared.connect(_forget_models, dispatch_uid="ringcache:query_tables")


def watched_catalogue(table: str, using: str, rules: Rules) -> TableCatalogue:
    """Return the catalogue of a table whose rows change only where it is seen; raise NotCached otherwise."""
    if not rules.is_watched(table):
        raise NotCached(
            f"nothing watches the table {table}; give its model a CachedManager or an InvalidatingManager"
        )
    catalogue = catalogue_of(table, using)
    if catalogue.is_partition_or_inherits:
        raise NotCached(f"the table {table} is partitioned or inherits, so its rows change with other tables")
    if catalogue.has_row_security and not current_namespace():
        raise NotCached(f"the table {table} has row-level security, and no namespace names the role")
    if catalogue.is_changed_by_cascade and not rules.has_triggers(table):
        raise NotCached(
            f"foreign keys of the table {table} let the database change it, which triggers=True sees"
        )
    return catalogue


def has_cacheable_rows(model: type[models.Model], using: str) -> bool:
    """Return whether every change of a row of a model is seen, in its own table and in those of its parents.

    The rows must have a ``CachedManager``, so writes of Django to the tables are seen.
    """
    watched = Rules(is_watched=lambda _: True)
    try:
        for table in {field.model._meta.db_table for field in model._meta.concrete_fields}:
            if not is_plain_table(model_of_table(table), table, using):
                return False
            watched_catalogue(table, using, watched)
    except NotCached:
        return False
    return True


def is_plain_table(model: type[models.Model] | None, table: str, using: str) -> bool:
    """Return whether a table is one that Django manages, and no view."""
    return model is not None and model._meta.managed and catalogue_of(table, using).is_table
