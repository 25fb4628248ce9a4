"""The keys that a model's rows are cached under: one for the primary key, one for each lookup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db import models
from xxhash import xxh3_128_hexdigest

__all__ = ["RowKeys"]

#: Characters. A value that is longer, or that a key may not contain, is replaced by its hash.
LONGEST_KEY_PART = 100


class RowKeys:
    """Makes the keys of one model's rows; the cache adds its prefix and version to them.

    Args:
        model: The rows' model; all of its fields must be known.
        lookups: The unique fields, beside the primary key, by which rows are looked up.
        base_manager: The name of the manager that loads the rows; None: the model's base manager.
            A row that exists for one manager may not exist for another.
    """

    def __init__(
        self, model: type[models.Model], lookups: Sequence[str], base_manager: str | None = None
    ) -> None:
        self._model = model
        self._base_manager = base_manager
        self._lookups = lookups

    @cached_property
    def pk(self) -> models.Field[Any, Any]:
        """The primary key.

        Raises:
            ImproperlyConfigured: The model has none.
        """
        pk = self._model._meta.pk
        if pk is None:
            message = f"{self._model.__name__} has no primary key"
            raise ImproperlyConfigured(message)
        return pk

    @cached_property
    def fields(self) -> dict[str, models.Field[Any, Any]]:
        """The fields by which rows may be looked up, under each name that a caller may use.

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
        """Return the key of the row that has this value in a field."""
        _, prefix = self._prefixes[field.attname]
        return f"{prefix}{self.text(field, value)}"

    def of_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the keys of rows: of their primary keys, and of those lookup values that are known."""
        keys: list[str] = []
        for field, prefix in self._prefixes.values():
            name = field.attname
            if field is self.pk:
                values = [row.get(name, row.get("pk")) for row in rows]
            else:
                values = [row.get(name) for row in rows]
            keys += [f"{prefix}{self.text(field, value)}" for value in values if value is not None]
        return keys

    def text(self, field: models.Field[Any, Any], value: Any) -> str:
        """Return a value as a part of a key: the same text for all values that the database holds equal."""
        if type(value) is int and isinstance(field, models.IntegerField):
            return str(value)
        text = str(field.get_prep_value(value))
        if len(text) <= LONGEST_KEY_PART and text.isascii() and text.isprintable() and " " not in text:
            return text
        return f"#{xxh3_128_hexdigest(text.encode())}"

    @cached_property
    def _prefixes(self) -> dict[str, tuple[models.Field[Any, Any], str]]:
        """The field and the prefix of its keys, by the field's attribute name."""
        return {field.attname: (field, f"{self.prefix}{field.attname}:") for field in self.fields.values()}

    @property
    def prefix(self) -> str:
        """What every key begins with."""
        manager = f".{self._base_manager}" if self._base_manager else ""
        return f"{self._model._meta.label_lower}{manager}:"
