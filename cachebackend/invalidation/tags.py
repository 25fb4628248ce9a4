"""Tags of models and rows, and ``invalidate``, which a project calls itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.conf import settings
from django.db import models, router

from cachebackend.backend import Tag, find_ring_cache
from cachebackend.backend.lazy_objects import loaded
from cachebackend.backend.open_transactions import connections_in_transactions
from cachebackend.backend.scope import database_of, databases_of_write, scopes_of_write
from cachebackend.backend.tag_names import model_tag_name, row_tag_names, table_of, tag_name, watch_tags_of
from cachebackend.conf import ring_aliases
from cachebackend.invalidation.compilers import watch
from cachebackend.invalidation.pending_deletes import PendingDeletes
from cachebackend.invalidation.tables import (
    WatchedTable,
    many_to_many_models,
    row_of,
    tables_of,
    watched_tables,
)
from cachebackend.invalidation.transactions import invalidate_together
from cachebackend.invalidation.watched import KeysByAlias, is_historical
from cachebackend.models import OutboxRow

__all__ = ["ModelTags", "invalidate", "watch_tags"]


class ModelTags:
    """The dependent that makes a model, and each of its rows, a tag.

    Args:
        model: The model.
        alias: The cache alias that the tags are in.
    """

    fields: tuple[str, ...] = ()
    is_strict = False
    writes_through = False
    caches_absence = True  # a new row changes what was computed from all rows

    def __init__(self, model: type[models.Model], alias: str) -> None:
        self.model = model
        self.cache_alias = alias

    def keys_of(self, rows: Sequence[Mapping[str, Any]], using: str) -> list[bytes]:
        """Return the keys of the tags of the model and of the rows."""
        cache = find_ring_cache(self.cache_alias)
        if not rows or cache is None:
            return []
        return cache.many_tag_bytes(
            [name for scope in scopes_of_write(using) for name in self._names(rows, scope)]
        )

    def _names(self, rows: Sequence[Mapping[str, Any]], scope: str) -> list[str]:
        pks = [row.get("pk") for row in rows]
        return [model_tag_name(self.model, scope), *row_tag_names(self.model, pks, scope)]

    def prefixes(self, using: str) -> list[tuple[str, str]]:
        """Return what the keys of the tags of the model and of its rows begin with."""
        return [(f"rows:{database}", f":{table_of(self.model)}") for database in databases_of_write(using)]

    def refill(self, keys: Iterable[Any]) -> None:
        """Do nothing: tags hold no rows."""


def watch_tags(model: type[models.Model]) -> None:
    """Make a model, and each of its rows, a tag in every cache alias."""
    if not is_historical(model) and watch_tags_of(model):
        for alias in settings.CACHES:  # a test may replace the backend of any of them by a ring cache
            watch(model, ModelTags(model, alias))


def invalidate(*targets: Tag, alias: str | None = None) -> None:
    """Invalidate rows, models or tags: after the commit in a transaction, at once in autocommit.

    In either case an outbox row keeps the deletes until every node has confirmed them. What is cached of
    the rows is deleted before all tags, so a value that is made meanwhile cannot keep an old row.

    Args:
        targets: A row invalidates everything that is cached of it, and all values with its tag. A
            model or a string invalidates all values with that tag. A row or a model also invalidates
            the results of all queries over its tables, and over its many-to-many tables.
        alias: The cache alias of the tags. Default: every ring cache. Without one nothing happens.

    Raises:
        TypeError: A target is not one of these; nothing was invalidated.
        ImproperlyConfigured: Nothing watches the writes of a model; nothing was invalidated.
    """
    targets = tuple(map(loaded, targets))
    names = [name for target in targets for name in _names_of(target)]
    tags: KeysByAlias = {
        each: set(cache.many_tag_bytes(names))
        for each in ([alias] if alias else ring_aliases())
        if (cache := find_ring_cache(each)) is not None
    }
    # Each database's outbox row has all the tags, which must be deleted after the rows of each
    pending = {using: PendingDeletes(using) for target in targets for using in _databases_of(target)}
    for target in targets:
        if isinstance(target, str):
            continue
        [using] = _databases_of(target)
        model = target if isinstance(target, type) else type(target)
        if isinstance(target, models.Model):
            pending[using].add_rows(model, [row_of(target)])
        for table in [*(tables_of(model) if model is target else ()), *_tables_between(model)]:
            pending[using].add_results(table)
    for deletes in pending.values():
        deletes.add_keys(tags)
        if deletes.keys:  # without a ring cache there are none
            invalidate_together(deletes)


def _tables_between(model: type[models.Model]) -> list[WatchedTable]:
    """Return the many-to-many tables of a model: no tag names a row of one that Django makes by itself."""
    names = {through._meta.db_table for through in many_to_many_models([model])}
    return [table for name in sorted(names) for table in watched_tables(name)]


def _databases_of(target: Tag) -> set[str]:
    """Return the aliases of the databases whose changes a target may be invalidated for."""
    if isinstance(target, models.Model):
        return {database_of(target)}
    if not isinstance(target, str):
        return {router.db_for_write(target)}
    opened = {each.alias for each in connections_in_transactions()}
    return {router.db_for_write(OutboxRow), *opened}


def _names_of(target: Tag) -> list[str]:
    """Return the names of a tag: of a model, in each scope in which its rows may be cached."""
    name = tag_name(target)
    if isinstance(target, str | models.Model):
        return [name]
    return [model_tag_name(target, scope) for scope in scopes_of_write(router.db_for_write(target))]
