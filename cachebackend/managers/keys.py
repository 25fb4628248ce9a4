"""The keys that a model's rows are cached under: one for the primary key, one for each lookup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db import models

from cachebackend.backend.canonical import canonical_text, is_comparable, key_part
from cachebackend.backend.tag_names import table_of

__all__ = ["RowKeys"]


class RowKeys:
    """Makes the keys of one model's rows; the cache adds its prefix and version to them.

    Args:
        model: The rows' model; all of its fields must be known.
        lookups: The unique fields, beside the primary key, by which rows are looked up.
        name: What distinguishes the keys from those of another manager of the model; usually "".

    Keys are named by table and column, not by what a new release of the project may rename while
    processes of the old one still read and write the same rows. Only a second model of one table, a proxy
    or one whose table Django does not manage, is named too: it may have other columns.
    """

    def __init__(self, model: type[models.Model], lookups: Sequence[str], name: str = "") -> None:
        self._model = model
        self._name = name
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
    def exist(self) -> bool:
        """Whether rows have keys: Python must know which primary keys the database holds equal."""
        return is_comparable(self.pk)

    @cached_property
    def fields(self) -> dict[str, models.Field[Any, Any]]:
        """The fields by which rows may be looked up, under each name that a caller may use."""
        fields = {"pk": self.pk, self.pk.name: self.pk, self.pk.attname: self.pk}
        for name in self._lookups:
            if name not in self.faults:
                field: Any = self._model._meta.get_field(name)
                fields[field.name] = fields[field.attname] = field
        return fields

    @cached_property
    def faults(self) -> dict[str, str]:
        """The lookups that cannot be used, each with a sentence that says why."""
        faults = {name: self._fault(name) for name in self._lookups}
        return {name: fault for name, fault in faults.items() if fault is not None}

    def _fault(self, name: str) -> str | None:
        try:
            field = self._model._meta.get_field(name)
        except FieldDoesNotExist:
            field = None
        if not isinstance(field, models.Field) or not field.unique:
            return f"{self._model.__name__}: the lookup {name!r} is not a unique field"
        if not is_comparable(field):
            return (
                f"{self._model.__name__}: the lookup {name!r} is a {type(field).__name__}; Python and the "
                "database may differ on which of its values are equal. Look rows up by another field"
            )
        return None

    @cached_property
    def pk_columns(self) -> tuple[str, ...]:
        """The columns of the primary key, by attribute name: several if it is composite."""
        return tuple(part.attname for part in self._model._meta.pk_fields)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns that keys are made of, by attribute name."""
        names = (self.pk_columns if field is self.pk else (field.attname,) for field in self.fields.values())
        return tuple(dict.fromkeys(name for group in names for name in group))

    def of(self, field: models.Field[Any, Any], value: Any, scope: str) -> str | None:
        """Return the key of the row that has this value in a field; None if the value has no text."""
        name = field.attname
        if type(value) is int and name in self._integers:
            return f"{scope}:{self._middles[name]}{value}"  # what most reads ask for
        text = canonical_text(field, value) if self.exist else None
        return None if text is None else f"{scope}:{self._middles[name]}{key_part(text)}"

    def of_rows(self, rows: Sequence[Mapping[str, Any]], scopes: Sequence[str]) -> list[str]:
        """Return the keys of rows: of their primary keys, and of those lookup values that are known."""
        parts = [
            part
            for field, middle in self._fields_and_middles
            for row in rows
            if self.exist and (part := self._part(field, middle, self._value(row, field))) is not None
        ]
        return [f"{scope}:{part}" for scope in scopes for part in parts]

    def prefixes(self, databases: Sequence[str]) -> list[tuple[str, str]]:
        """Return what all keys in these databases begin with: two texts, and any namespace between them."""
        return [(database, f":{self._label}:") for database in databases]

    def are_equal(self, field: models.Field[Any, Any], one: Any, other: Any) -> bool:
        """Return whether a column holds two values equal, as far as Python can know it."""
        if type(one) is type(other) and type(one) in {int, str} and one == other:
            return True
        text = canonical_text(field, one)
        return text is not None and text == canonical_text(field, other)

    def _part(self, field: models.Field[Any, Any], middle: str, value: Any) -> str | None:
        """Return the part of a key behind its scope; None without a value or its text."""
        if type(value) is int and field.attname in self._integers:
            return f"{middle}{value}"
        text = canonical_text(field, value) if value is not None else None
        return None if text is None else middle + key_part(text)

    def _value(self, row: Mapping[str, Any], field: models.Field[Any, Any]) -> Any:
        return row.get("pk", row.get(field.attname)) if field is self.pk else row.get(field.attname)

    @cached_property
    def _integers(self) -> frozenset[str]:
        """The fields whose values of the type int are their own texts, by attribute name."""
        names = (name for name, field in self.fields.items() if isinstance(field, models.IntegerField))
        return frozenset(
            self.fields[name].attname for name in names if self.exist and is_comparable(self.fields[name])
        )

    @cached_property
    def _fields_and_middles(self) -> list[tuple[models.Field[Any, Any], str]]:
        fields = {field.attname: field for field in self.fields.values()}
        return [(field, self._middles[name]) for name, field in fields.items()]

    @cached_property
    def _middles(self) -> dict[str, str]:
        """What the keys of a field have between the scope and the value, by attribute name."""
        return {
            field.attname: f"{self._label}:{field.column or field.attname}:" for field in self.fields.values()
        }

    @property
    def _label(self) -> str:
        meta = self._model._meta
        model = f".{meta.model_name}" if meta.proxy or not meta.managed else ""
        return f"{table_of(self._model)}{model}" + (f":{self._name}" if self._name else "")
