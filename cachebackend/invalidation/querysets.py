"""A queryset that invalidates after bulk writes, for which Django sends no signals."""

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
#: Primary keys that one UPDATE of an invalidating queryset names.
ROWS_PER_UPDATE = 2000


class InvalidatingQuerySet(models.QuerySet[M]):
    """A queryset that deletes what is cached of the rows it writes.

    It does not replace ``delete`` and ``bulk_update``: Django sends signals for the first, and the
    second calls ``update``.
    """

    def update(self, **changes: Any) -> int:
        """Update the rows, and invalidate exactly those that were updated.

        The rows are locked first, and the UPDATE names them by primary key. A row that begins to
        match in between is not updated, as if the statement had run a moment earlier.
        """
        self._for_write = True  # so the rows are read from the database that they are written to
        if not dependents_of(self.model):
            return super().update(**changes)
        count = 0
        with transaction.atomic(using=self.db, savepoint=False):
            matching = self.model._base_manager.using(self.db).filter(pk__in=self.order_by().values("pk"))
            keys = list(matching.select_for_update().order_by("pk").values_list("pk", flat=True))
            rows = [{"pk": key} for key in keys]
            prepare_write(self.model, rows, self.db)
            for start in range(0, len(keys), ROWS_PER_UPDATE):
                named = self.order_by().filter(pk__in=keys[start : start + ROWS_PER_UPDATE])
                count += super(InvalidatingQuerySet, named).update(**changes)
            names = changes.keys() & _lookups_of(self.model)
            if names:  # the absence of a row may be cached under its new lookup values
                written = self.model._base_manager.using(self.db).filter(pk__in=keys)
                rows += written.values("pk", *names)
            invalidate_rows(self.model, rows, self.db)
        return count

    update.alters_data = True  # type: ignore[attr-defined]  # templates may not call it

    def bulk_create(self, objs: Iterable[M], *args: Any, **kwargs: Any) -> list[M]:
        """Insert the rows, and invalidate what is cached under their primary keys."""
        objs = list(objs)
        self._for_write = True
        with transaction.atomic(using=self.db, savepoint=False):
            prepare_write(self.model, [row_of(row) for row in objs if row.pk is not None], self.db)
            created = super().bulk_create(objs, *args, **kwargs)
            invalidate_rows(self.model, [row_of(row) for row in created if row.pk is not None], self.db)
        return created


def _lookups_of(model: type[models.Model]) -> set[str]:
    """Return the columns by which rows of a model are looked up, without the primary key."""
    names = {name for _, dependent in dependents_of(model) for name in dependent.fields}
    return names - {model._meta.pk.attname}


class InvalidatingManager(models.Manager.from_queryset(InvalidatingQuerySet)):  # type: ignore[misc]  # made at run time
    """A manager whose querysets invalidate; it makes its model, and each row of it, a tag."""

    def contribute_to_class(self, cls: type[models.Model], name: str) -> None:
        """Become an attribute of the model, and watch its rows. Django calls it."""
        super().contribute_to_class(cls, name)
        if not cls._meta.abstract:
            for alias in ring_aliases():
                watch(cls, ModelTags(cls, alias))
