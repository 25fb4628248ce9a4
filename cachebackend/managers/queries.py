"""The queries that load a model's rows from the database, as the values to cache."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db import models, router

from cachebackend import protocol
from cachebackend.backend.collations import inexact_collation
from cachebackend.managers.rows import RowShape

__all__ = ["RowQueries"]

M = TypeVar("M", bound=models.Model)


class RowQueries(Generic[M]):
    """Loads rows of one model from the database that the model is written to.

    Args:
        shape: How the rows are stored.
        base_manager: The name of the model's manager through which rows are loaded; None: the
            model's ``_base_manager``.
        caches_absence: Whether it is cached that a row does not exist.
    """

    def __init__(self, shape: RowShape[M], base_manager: str | None, *, caches_absence: bool) -> None:
        self._shape = shape
        self._base_manager = base_manager
        self._model = shape.model
        self._caches_absence = caches_absence

    @property
    def using(self) -> str:
        """The alias of the database."""
        return router.db_for_write(self._model)

    @property
    def _rows(self) -> models.QuerySet[M]:
        if self._base_manager is None:
            return self._model._base_manager.using(self.using)
        managers = self._model._meta.managers_map
        if self._base_manager not in managers:
            message = (
                f"CachedManager(base_manager={self._base_manager!r}) must be a manager of "
                f"{self._model.__name__}, which has {', '.join(managers)}"
            )
            raise ImproperlyConfigured(message)
        return managers[self._base_manager].using(self.using)

    def instance(self, field: models.Field[Any, Any], value: Any) -> M | None:
        """Return the row that has a value in a field, which Django compares; None: there is none.

        Raises:
            MultipleObjectsReturned: Several rows have the value: None, which is not unique.
        """
        rows = list(self._rows.filter(**{field.name: value}).values_list(*self._shape.names)[:2])
        if len(rows) > 1:
            message = f"Several rows of {self._model.__name__} have {field.name}={value!r}."
            raise self._model.MultipleObjectsReturned(message)  # type: ignore[attr-defined]  # Django makes it
        return self._shape.instance(rows[0], self.using) if rows else None

    def pk(self, field: models.Field[Any, Any], value: Any) -> Any:
        """Return the primary key of the row that has a value in a lookup; MISSING: there is none.

        Raises:
            ImproperlyConfigured: The column holds different texts equal.
        """
        self._refuse_inexact(field, "Remove it from lookups=[…]")
        pks = self._rows.filter(**{field.name: value}).values_list("pk", flat=True)
        return next(iter(pks), protocol.MISSING)

    def row(self, pk: Any) -> Any:
        """Return the value to cache for the row with a primary key; MISSING: there is none."""
        rows = self._rows.filter(pk=pk).values_list(*self._shape.names)
        value = next((self._shape.value(row) for row in rows), protocol.MISSING)
        if value is protocol.MISSING:
            self._refuse_inexact_absence()
        return value

    def rows(self, pks: list[Any]) -> dict[Any, Any]:
        """Return the values to cache for rows, by primary key; one that does not exist is left out."""
        rows = self._rows.filter(pk__in=pks).values_list(*self._shape.names)
        values = {self._shape.pk(row): self._shape.value(row) for row in rows}
        if len(values) < len(pks):
            self._refuse_inexact_absence()
        return values

    def _refuse_inexact_absence(self) -> None:
        if self._caches_absence:
            for field in self._shape.pk_fields:
                self._refuse_inexact(field, "Remove missing_timeout=…")

    def _refuse_inexact(self, field: models.Field[Any, Any], hint: str) -> None:
        if (reason := inexact_collation(field, self.using)) is not None:
            message = (
                f"{self._model.__name__} rows cannot be cached by {field.name!r}: different texts are equal "
                f"by {reason}. {hint}, or give the column another collation"
            )
            raise ImproperlyConfigured(message)
