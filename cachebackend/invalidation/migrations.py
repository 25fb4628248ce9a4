"""Drops what is cached of tables that migrations have changed, or that ``flush`` has emptied.

A migration may change rows by SQL that nothing sees. So when the migrations of an app have run, all
keys of its watched models are deleted on all nodes; also if a later migration has failed, because those
before it are committed. ``flush``, which also ends each test of a ``TransactionTestCase``, truncates tables
by the method of Django that ``connect_migrations`` wraps; it does not always send ``post_migrate``.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.db import models, router
from django.db.backends.base.operations import BaseDatabaseOperations
from django.db.models.signals import post_migrate, pre_migrate

from cachebackend import protocol
from cachebackend.backend import ring_cache
from cachebackend.backend.scope import databases_of_write
from cachebackend.errors import RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.outbox_table import look_for_outbox
from cachebackend.invalidation.pending_deletes import PendingDeletes
from cachebackend.invalidation.tables import WatchedTable, all_tables, watched_tables
from cachebackend.invalidation.tags import ModelTags
from cachebackend.invalidation.transactions import invalidate_together
from cachebackend.invalidation.watched import Dependent, dependents_by_model, shares_rows
from cachebackend.models import OutboxRow

__all__ = ["connect_migrations"]

logger = logging.getLogger("cachebackend")


def connect_migrations() -> None:
    """Drop what is cached of tables when migrations have run, and when ``flush`` has emptied them."""
    pre_migrate.connect(_before_migrate, dispatch_uid="ringcache:migrations")
    post_migrate.connect(_after_migrate, dispatch_uid="ringcache:migrations")
    flush = BaseDatabaseOperations.execute_sql_flush

    @functools.wraps(flush)
    def execute_sql_flush(self: BaseDatabaseOperations, sql_list: Iterable[str]) -> None:
        flush(self, sql_list)
        _drop_database(self.connection.alias)

    if not hasattr(flush, "__wrapped__"):
        BaseDatabaseOperations.execute_sql_flush = execute_sql_flush  # type: ignore[method-assign]  # Django sends no signal here


def _before_migrate(**_: Any) -> None:
    """Let a run of migrations that fails drop what is cached: Django then sends no signal at its end."""
    from django.db.migrations.executor import MigrationExecutor  # other processes do not need it

    migrate = MigrationExecutor.migrate

    @functools.wraps(migrate)
    def migrate_or_drop(self: Any, targets: Any, plan: Any = None, *args: Any, **kwargs: Any) -> Any:
        try:
            return migrate(self, targets, plan, *args, **kwargs)
        except BaseException:
            try:
                for label in sorted({migration.app_label for migration, _ in plan or ()}):
                    _drop_models(_models_of(apps.get_app_config(label)), self.connection.alias)
            except Exception as error:  # the database may be gone; the first error must be seen
                raise_interrupt(error)
                logger.exception("what is cached may be older than the tables")
            raise

    if not hasattr(migrate, "__wrapped__"):
        MigrationExecutor.migrate = migrate_or_drop  # type: ignore[method-assign]


def _after_migrate(
    *, app_config: AppConfig, using: str, plan: Sequence[tuple[Any, bool]] | None = None, **_: Any
) -> None:
    """Handle the end of ``migrate`` for one app. Raises nothing: the tables are changed.

    Args:
        app_config: The app.
        using: The database alias.
        plan: The migrations that have run, each with whether it ran backwards; None: after ``flush``.
    """
    if app_config.label == OutboxRow._meta.app_label:
        look_for_outbox(using)
    if any(migration.app_label == app_config.label for migration, _ in plan or ()):
        _drop_models(_models_of(app_config), using)


def _models_of(app_config: AppConfig) -> list[type[models.Model]]:
    """Return the models whose tables an app has, and those at the ends of its many-to-many tables.

    A row of such a table is a part of what is cached of the rows at its ends, which may be of another app.
    """
    found: dict[Any, None] = {}
    for model in app_config.get_models(include_auto_created=True):
        found[model] = None
        if model._meta.auto_created:
            found |= {each.related_model: None for each in model._meta.local_fields if each.is_relation}
    return list(found)


def _drop_models(changed: Sequence[type[models.Model]], using: str) -> None:
    """Delete what is cached of the rows of these models."""
    dependents = [
        dependent
        for model, each in dependents_by_model().items()
        if router.allow_migrate_model(using, model) and any(shares_rows(model, other) for other in changed)
        for dependent in each
    ]
    _drop([(each, each.prefixes(using)) for each in dependents], using)
    _drop_results([table for model in changed for table in watched_tables(model._meta.db_table)], using)


def _drop_database(using: str) -> None:
    """Delete what is cached of all rows of a database: two searches of the nodes for each cache alias."""
    by_alias: dict[tuple[str, bool], Dependent] = {}
    for dependents in dependents_by_model().values():
        for dependent in dependents:
            by_alias[dependent.cache_alias, isinstance(dependent, ModelTags)] = dependent
    databases = databases_of_write(using)
    _drop(
        [
            (dependent, [(f"rows:{database}" if is_tags else database, ":") for database in databases])
            for (_, is_tags), dependent in by_alias.items()
        ],
        using,
    )
    _drop_results([table for table in all_tables() if router.allow_migrate_model(using, table.model)], using)


def _drop_results(tables: Iterable[WatchedTable], using: str) -> None:
    """Delete the results of queries over some tables, after their rows. Raises nothing."""
    deletes = PendingDeletes(using)
    for table in tables:
        deletes.add_results(table)
    if deletes.keys:
        try:
            invalidate_together(deletes)
        except RingCacheError:
            logger.exception("cached results of queries may be older than the tables")


def _drop(searched: Sequence[tuple[Dependent, Sequence[tuple[str, str]]]], using: str) -> None:
    """Delete the keys that begin with some prefixes on all nodes. Raises nothing: the tables are changed.

    The outbox keeps the clear of a node that fails.

    Args:
        searched: Dependents, each with prefixes.
        using: The alias of the database.
    """
    # Values first, then tags: else a page is made of an old row and kept under the new tag
    for dependent, prefixes in sorted(searched, key=lambda each: isinstance(each[0], ModelTags)):
        cache = ring_cache(dependent.cache_alias)
        deletes = PendingDeletes(using)
        try:
            for parts in prefixes:
                cache.client.run(protocol.clear(cache.client.context, cache.pattern_of(*parts)))
            deletes.add_keys({dependent.cache_alias: dependent.keys_of([{}], using)})
            invalidate_together(deletes)
        except RingCacheError:
            logger.exception("what is cached in %s may be older than the tables", dependent.cache_alias)
