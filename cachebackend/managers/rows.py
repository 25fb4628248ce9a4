"""Rows as values: the columns as the database gave them, and a mark of the model's shape.

Instances are not pickled: a process whose model has one field more or less finds
another mark and takes the value for a miss, instead of an instance that lacks an
attribute or has a wrong one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from django.db import models
from xxhash import xxh3_64_hexdigest

__all__ = ["RowShape"]

M = TypeVar("M", bound=models.Model)


class RowShape(Generic[M]):
    """How rows of one model are kept.

    Args:
        model: The rows' model, whole: its fields are known.
    """

    def __init__(self, model: type[M]) -> None:
        self.model = model
        fields = model._meta.concrete_fields
        self.names = [field.attname for field in fields]
        shape = [(field.attname, field.column, type(field).__qualname__) for field in fields]
        self._mark = xxh3_64_hexdigest(repr(shape).encode())

    def value(self, row: Sequence[Any]) -> list[Any]:
        """Return what is cached of a row, given its columns in the order of ``names``."""
        return [self._mark, *row]

    def row(self, value: Any) -> Sequence[Any] | None:
        """Return the columns, or None if the value was made by a model of another shape."""
        if not isinstance(value, list) or len(value) != len(self.names) + 1 or value[0] != self._mark:
            return None
        return value[1:]

    def instance(self, row: Sequence[Any], using: str) -> M:
        """Return the model instance of a row, as if it had just been read from the database."""
        return self.model.from_db(using, self.names, row)
