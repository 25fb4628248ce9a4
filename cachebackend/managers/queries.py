"""The queries that load a model's rows from the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db import connections, models, router

from cachebackend.backend.collations import inexact_collation
from cachebackend.managers.lookups import Lookup
from cachebackend.managers.rows import Row, RowShape

__all__ = ["RowQueries"]

M = TypeVar("M", bound=models.Model)
#: Values that one query asks for at most, if Django knows no lower limit: Postgres accepts 65,535 parameters
#: with ``server_side_binding``.
VALUES_PER_QUERY = 30_000


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

    def instance(self, lookup: Lookup, value: Any) -> M | None:
        """Return the row that has a value, which Django compares; None: there is none.

        Raises:
            MultipleObjectsReturned: Several rows have the value: None, which is not unique.
        """
        row = self._only(lookup, value)
        return None if row is None else self._shape.instance(row, self.using)

    def rows(self, lookup: Lookup, values: Sequence[Any]) -> list[Row]:
        """Return the columns of the rows that have one of some values, which must be comparable.

        Raises:
            ImproperlyConfigured: A column holds different texts equal.
        """
        if not lookup.is_pk:
            for field in lookup.fields:
                self._refuse_inexact(field, "Remove it from lookups=[…]")
        rows = self._having(lookup, values)
        if lookup.is_pk and self._caches_absence and len(rows) < len(values):
            for field in self._shape.pk_fields:
                self._refuse_inexact(field, "Remove missing_timeout=…")
        return rows

    def _having(self, lookup: Lookup, values: Sequence[Any]) -> list[Row]:
        """Return the rows with these values: in one query, unless they are many, or have several columns."""
        if lookup.single is None or len(values) == 1:
            found = (self._only(lookup, value) for value in values)
            return [row for row in found if row is not None]
        name = "pk" if lookup.is_pk else lookup.single.name
        rows: list[Row] = []
        most = min(connections[self.using].features.max_query_params or VALUES_PER_QUERY, VALUES_PER_QUERY)
        for start in range(0, len(values), most):
            some = values[start : start + most]
            rows += self._rows.filter(**{f"{name}__in": some}).values_list(*self._shape.selected)
        return rows

    def _only(self, lookup: Lookup, value: Any) -> Row | None:
        rows = list(self._rows.filter(**lookup.filters(value)).values_list(*self._shape.selected)[:2])
        if len(rows) > 1:
            shown = ", ".join(f"{name}={part!r}" for name, part in lookup.filters(value).items())
            message = f"Several rows of {self._model.__name__} have {shown}."
            raise self._model.MultipleObjectsReturned(message)  # type: ignore[attr-defined]  # Django makes it
        return rows[0] if rows else None

    def _refuse_inexact(self, field: models.Field[Any, Any], hint: str) -> None:
        if (reason := inexact_collation(field, self.using)) is not None:
            message = (
                f"{self._model.__name__} rows cannot be cached by {field.name!r}: different texts are equal "
                f"by {reason}. {hint}, or give the column another collation"
            )
            raise ImproperlyConfigured(message)
