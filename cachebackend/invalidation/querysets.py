"""A queryset whose bulk writes, which send no signals, invalidate too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from django.db import models, transaction

from cachebackend.conf import ring_aliases
from cachebackend.invalidation.signals import row_of, watch
from cachebackend.invalidation.tags import ModelTags
from cachebackend.invalidation.transactions import invalidate_rows, prepare_write
from cachebackend.invalidation.watched import dependents_of

__all__ = ["InvalidatingManager", "InvalidatingQuerySet"]

M = TypeVar("M", bound=models.Model)
#: Rows that one UPDATE of an invalidating queryset names.
UPDATE_ROWS = 2000


class InvalidatingQuerySet(models.QuerySet[M]):
    """A queryset that deletes what is cached of the rows it writes.

    ``delete`` and ``bulk_update`` need nothing here: Django sends signals for the one, and
    builds the other on ``update``.
    """

    def update(self, **changes: Any) -> int:
        """Update the rows, and invalidate exactly those that were updated.

        The rows are locked and named first: rows that begin to match in between are not
        updated, as if the statement had come a moment earlier.
        """
        self._for_write = True  # so that the rows are found in the database that they are written in
        if not dependents_of(self.model):
            return super().update(**changes)
        count = 0
        with transaction.atomic(using=self.db, savepoint=False):
            matching = self.model._base_manager.using(self.db).filter(pk__in=self.order_by().values("pk"))
            keys = list(matching.select_for_update().order_by("pk").values_list("pk", flat=True))
            rows = [{"pk": key} for key in keys]
            prepare_write(self.model, rows, self.db)
            for start in range(0, len(keys), UPDATE_ROWS):
                named = self.order_by().filter(pk__in=keys[start : start + UPDATE_ROWS])
                count += super(InvalidatingQuerySet, named).update(**changes)
            names = changes.keys() & _lookups_of(self.model)
            if names:  # what the rows are asked for by has changed: an absence may be cached there
                written = self.model._base_manager.using(self.db).filter(pk__in=keys)
                rows += written.values("pk", *names)
            invalidate_rows(self.model, rows, self.db)
        return count

    update.alters_data = True  # type: ignore[attr-defined]  # Django's mark: templates may not call it

    def bulk_create(self, objs: Iterable[M], *args: Any, **kwargs: Any) -> list[M]:
        """Insert the rows, and invalidate those that were there under the same key."""
        objs = list(objs)
        self._for_write = True
        with transaction.atomic(using=self.db, savepoint=False):
            prepare_write(self.model, [row_of(each) for each in objs if each.pk is not None], self.db)
            created = super().bulk_create(objs, *args, **kwargs)
            invalidate_rows(self.model, [row_of(each) for each in created if each.pk is not None], self.db)
        return created


def _lookups_of(model: type[models.Model]) -> set[str]:
    """Return the columns that rows of a model are asked for by, beside the primary key."""
    return {
        name for _, dependent in dependents_of(model) for name in dependent.fields if not _is_key(model, name)
    }


def _is_key(model: type[models.Model], name: str) -> bool:
    return name == model._meta.pk.attname


class InvalidatingManager(models.Manager.from_queryset(InvalidatingQuerySet)):  # type: ignore[misc]  # made at run time
    """A manager of invalidating querysets; it makes its model, and each row, a tag."""

    def contribute_to_class(self, cls: type[models.Model], name: str) -> None:
        """Become the attribute of a model, and be told of its rows' changes. Called by Django."""
        super().contribute_to_class(cls, name)
        if not cls._meta.abstract:
            for alias in ring_aliases():
                watch(cls, ModelTags(cls, alias))
