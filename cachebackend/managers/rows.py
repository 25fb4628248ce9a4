"""Rows as cached values: the columns as the database returned them, and a fingerprint of the model.

Instances are not pickled. If the model of another process has one field more or less, that
process finds another fingerprint and treats the value as a miss. It never builds an instance
that lacks an attribute or has a wrong one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from django.db import models
from xxhash import xxh3_64_hexdigest

__all__ = ["RowShape"]

M = TypeVar("M", bound=models.Model)


class RowShape(Generic[M]):
    """How rows of one model are stored.

    Args:
        model: The rows' model; all of its fields must be known.
        base_manager: The name of the model's manager through which rows are loaded; None: the
            model's ``_base_manager``. A row that exists for one manager may not exist for another.
    """

    def __init__(self, model: type[M], base_manager: str | None = None) -> None:
        self.model = model
        fields = model._meta.concrete_fields
        self.names = [field.attname for field in fields]
        self.positions = {name: position for position, name in enumerate(self.names)}
        self.pk_fields = model._meta.pk_fields
        self._pk_positions = [self.positions[field.attname] for field in self.pk_fields]
        shape = [(field.attname, field.column, type(field).__qualname__) for field in fields]
        self._fingerprint = xxh3_64_hexdigest(repr((base_manager, shape)).encode())

    def value(self, row: Sequence[Any]) -> list[Any]:
        """Return the value to cache for a row, given its columns in the order of ``names``."""
        return [self._fingerprint, *row]

    def row(self, value: Any) -> Sequence[Any] | None:
        """Return the columns of a cached value; None if a model of another shape made the value."""
        if not isinstance(value, list) or len(value) != len(self.names) + 1 or value[0] != self._fingerprint:
            return None
        return value[1:]

    def pk(self, row: Sequence[Any]) -> Any:
        """Return the primary key of a row, given its columns; a tuple if it is composite."""
        if len(self._pk_positions) == 1:
            return row[self._pk_positions[0]]
        return tuple(row[position] for position in self._pk_positions)

    def instance(self, row: Sequence[Any], using: str) -> M:
        """Return the model instance of a row, as if it had just been read from the database."""
        return self.model.from_db(using, self.names, row)
