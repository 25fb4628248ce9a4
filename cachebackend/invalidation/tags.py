"""Tags of models and rows, and ``invalidate``, which a project calls itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.core.cache import caches
from django.db import models, router

from cachebackend.backend import RingCache, Tag
from cachebackend.backend.keys import check_tag
from cachebackend.conf import ring_aliases
from cachebackend.invalidation.tables import row_of
from cachebackend.invalidation.transactions import invalidate_keys, invalidate_rows

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
        cache = caches[self.alias]
        if not rows or not isinstance(cache, RingCache):
            return []
        label = self.model._meta.label_lower
        tags = [f"{label}:{pk}" for row in rows if (pk := row.get("pk")) is not None]
        return cache.many_tag_bytes([label, *tags])

    def refill(self, keys: Iterable[Any]) -> None:
        """Do nothing: tags hold no rows."""


def invalidate(*targets: Tag, alias: str | None = None) -> None:
    """Invalidate rows, models or tags: after the commit in a transaction, at once in autocommit.

    Args:
        targets: A row invalidates everything that is cached of it, and all values with its tag. A
            model or a string invalidates all values with that tag.
        alias: The cache alias of the tags. Default: every ring cache.

    Raises:
        TypeError: A target is not one of these; nothing was invalidated.
    """
    for target in targets:
        check_tag(target)
    aliases = [alias] if alias else ring_aliases()
    for target in targets:
        using = router.db_for_write(models.Model)
        if isinstance(target, models.Model):
            using = target._state.db or router.db_for_write(type(target))
            invalidate_rows(type(target), [row_of(target)], using)
        elif not isinstance(target, str):
            using = router.db_for_write(target)
        for each in aliases:
            cache = caches[each]
            if isinstance(cache, RingCache):
                invalidate_keys(each, [cache.tag_bytes(target)], using)
