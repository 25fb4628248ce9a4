"""The keys that a model's rows are cached by: their primary key, and each of their lookups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db import models
from xxhash import xxh3_128_hexdigest

__all__ = ["RowKeys"]

#: A key part that is longer than this, or not plain, is written as its hash.
LONGEST_KEY_PART = 100


class RowKeys:
    """How keys of one model's rows are made, before the cache gives them prefix and version.

    Args:
        model: The rows' model, whole: its fields are known.
        lookups: The unique fields, beside the primary key, that rows are asked for by.
    """

    def __init__(self, model: type[models.Model], lookups: Sequence[str]) -> None:
        self._model = model
        self._lookups = lookups

    @cached_property
    def pk(self) -> models.Field[Any, Any]:
        """The primary key.

        Raises:
            ImproperlyConfigured: There is none.
        """
        pk = self._model._meta.pk
        if pk is None:
            message = f"{self._model.__name__} has no primary key"
            raise ImproperlyConfigured(message)
        return pk

    @cached_property
    def fields(self) -> dict[str, models.Field[Any, Any]]:
        """The fields that rows may be asked for by, under each name that names them.

        Raises:
            ImproperlyConfigured: A lookup is not a unique field.
        """
        fields = {"pk": self.pk, self.pk.name: self.pk, self.pk.attname: self.pk}
        for name in self._lookups:
            try:
                field = self._model._meta.get_field(name)
            except FieldDoesNotExist:
                field = None
            if not isinstance(field, models.Field) or not field.unique:
                message = f"{self._model.__name__}: the lookup {name!r} is not a unique field"
                raise ImproperlyConfigured(message)
            fields[field.name] = fields[field.attname] = field
        return fields

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that keys are made of, by attribute name."""
        return tuple(field.attname for field in self.fields.values())

    def of(self, field: models.Field[Any, Any], value: Any) -> str:
        """Return the key of the row that has this value."""
        _, opening = self._openings[field.attname]
        return f"{opening}{self.text(field, value)}"

    def of_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the keys of rows: their own, and their lookups' as far as they are known."""
        found: list[str] = []
        for field, opening in self._openings.values():
            name = field.attname
            if field is self.pk:
                values = [row.get(name, row.get("pk")) for row in rows]
            else:
                values = [row.get(name) for row in rows]
            found += [f"{opening}{self.text(field, value)}" for value in values if value is not None]
        return found

    def text(self, field: models.Field[Any, Any], value: Any) -> str:
        """Return a value as a part of a key: equal for all that the database holds for equal."""
        if type(value) is int and isinstance(field, models.IntegerField):
            return str(value)
        text = str(field.get_prep_value(value))
        if len(text) <= LONGEST_KEY_PART and text.isascii() and text.isprintable() and " " not in text:
            return text
        return f"#{xxh3_128_hexdigest(text.encode())}"

    @cached_property
    def _openings(self) -> dict[str, tuple[models.Field[Any, Any], str]]:
        """What keys begin with, by the column that they are made of."""
        label = self._model._meta.label_lower
        return {field.attname: (field, f"{label}:{field.attname}:") for field in self.fields.values()}
