"""``InvalidatingManager``: makes its model, and each of its rows, a tag."""

from __future__ import annotations

from typing import Any, TypeVar

from django.conf import settings
from django.db import models
from django.db.models.signals import class_prepared

from cachebackend.invalidation import watch_queries, watch_tags
from cachebackend.queries.options import QueryOptions
from cachebackend.queries.queryset import CachedQuerySet, cached_queryset
from cachebackend.queries.relations import manager_of_rows

__all__ = ["InvalidatingManager", "InvalidatingQuerySet"]

M = TypeVar("M", bound=models.Model)


class InvalidatingQuerySet(models.QuerySet[M]):
    """A queryset of a watched model. It writes as any queryset does: all writes invalidate."""

    def cached(self, alias: str = "default", **options: Any) -> CachedQuerySet[M]:
        """Return a queryset with the same query that is evaluated through the ring.

        Whole rows come from their own entries if the model has a ``CachedManager`` in the cache alias. The
        result has Django's methods only: call those of your own queryset class before.

        Args:
            alias: The cache alias.
            options: As for ``CachedQuerySet.cached``.
        """
        queryset = cached_queryset(self, QueryOptions(alias, rows=manager_of_rows(self.model, alias)))
        return queryset.cached(**options)


class InvalidatingManager(models.Manager.from_queryset(InvalidatingQuerySet)):  # type: ignore[misc]  # made at run time
    """A manager that makes its model, and each row of it, a tag."""

    def contribute_to_class(self, cls: type[models.Model], name: str) -> None:
        """Become an attribute of the model. Django calls it."""
        super().contribute_to_class(cls, name)
        if cls._meta.concrete_model is not None:  # it is added to a class that exists already
            _watch_managed(sender=cls)


def _watch_managed(*, sender: type[models.Model], **_: Any) -> None:
    """Watch a model that has an InvalidatingManager, its own or an inherited one."""
    if any(isinstance(manager, InvalidatingManager) for manager in sender._meta.managers):
        watch_tags(sender)
        for alias in settings.CACHES:
            watch_queries(sender, alias)


class_prepared.connect(_watch_managed, dispatch_uid="ringcache:managers")
