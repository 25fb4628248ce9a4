"""``InvalidatingManager``: makes its model, and each of its rows, a tag."""

from __future__ import annotations

from typing import TypeVar

from django.db import models

from cachebackend.conf import ring_aliases
from cachebackend.invalidation.tags import ModelTags
from cachebackend.invalidation.writes import watch

__all__ = ["InvalidatingManager", "InvalidatingQuerySet"]

M = TypeVar("M", bound=models.Model)


class InvalidatingQuerySet(models.QuerySet[M]):
    """A queryset of a watched model. It writes as any queryset does: all writes invalidate."""


class InvalidatingManager(models.Manager.from_queryset(InvalidatingQuerySet)):  # type: ignore[misc]  # made at run time
    """A manager that makes its model, and each row of it, a tag."""

    def contribute_to_class(self, cls: type[models.Model], name: str) -> None:
        """Become an attribute of the model, and watch its rows. Django calls it."""
        super().contribute_to_class(cls, name)
        if not cls._meta.abstract:
            for alias in ring_aliases():
                watch(cls, ModelTags(cls, alias))
