"""Tags of models and rows, and ``invalidate``, which a project calls itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import models, router

from cachebackend.backend import Tag, find_ring_cache
from cachebackend.backend.keys import check_tag
from cachebackend.backend.open_transactions import connections_in_transactions
from cachebackend.conf import ring_aliases
from cachebackend.invalidation.deletes import PendingDeletes
from cachebackend.invalidation.tables import row_of
from cachebackend.invalidation.transactions import invalidate_together
from cachebackend.invalidation.watched import KeysByAlias

__all__ = ["ModelTags", "invalidate"]


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
        self.alias = alias

    def keys_of(self, rows: Sequence[Mapping[str, Any]], using: str) -> list[bytes]:
        """Return the keys of the tags of the model and of the rows."""
        cache = find_ring_cache(self.alias)
        if not rows or cache is None:
            return []
        label = self.model._meta.label_lower
        tags = [f"{label}:{pk}" for row in rows if (pk := row.get("pk")) is not None]
        return cache.many_tag_bytes([label, *tags])

    def prefix(self, using: str) -> str:
        """Return what the keys of the tags of all rows begin with."""
        return f"tag:{self.model._meta.label_lower}:"

    def refill(self, keys: Iterable[Any]) -> None:
        """Do nothing: tags hold no rows."""


def invalidate(*targets: Tag, alias: str | None = None) -> None:
    """Invalidate rows, models or tags: after the commit in a transaction, at once in autocommit.

    In either case an outbox row keeps the deletes until every node has confirmed them. What is cached of
    the rows is deleted before all tags, so a value that is made meanwhile cannot keep an old row.

    Args:
        targets: A row invalidates everything that is cached of it, and all values with its tag. A
            model or a string invalidates all values with that tag.
        alias: The cache alias of the tags. Default: every ring cache. Without one nothing happens.

    Raises:
        TypeError: A target is not one of these; nothing was invalidated.
    """
    for target in targets:
        check_tag(target)
    tags: KeysByAlias = {
        each: {cache.tag_bytes(target) for target in targets}
        for each in ([alias] if alias else ring_aliases())
        if (cache := find_ring_cache(each)) is not None
    }
    # Each database's outbox row has all the tags, which must be deleted after the rows of each
    pending = {using: PendingDeletes(using) for target in targets for using in _databases_of(target)}
    for target in targets:
        if isinstance(target, models.Model):
            [using] = _databases_of(target)
            pending[using].add_rows(type(target), [row_of(target)])
    for deletes in pending.values():
        deletes.add_keys(tags)
        if deletes.keys:  # without a ring cache there are none
            invalidate_together(deletes)


def _databases_of(target: Tag) -> set[str]:
    """Return the aliases of the databases whose changes a target may be invalidated for."""
    if isinstance(target, models.Model):
        return {target._state.db or router.db_for_write(type(target))}
    if not isinstance(target, str):
        return {router.db_for_write(target)}
    opened = {each.alias for each in connections_in_transactions()}
    return {router.db_for_write(models.Model), *opened}
