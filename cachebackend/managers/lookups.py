"""``Lookup``: the columns by which a row is found: the primary key, or those of a unique constraint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from django.core.exceptions import FieldDoesNotExist
from django.db import models

from cachebackend.backend.canonical import (
    canonical_text,
    is_comparable,
    is_text,
    joined_text,
    key_part,
)
from cachebackend.invalidation.conflicts import unique_groups
from cachebackend.properties import cached_property

__all__ = ["AnyField", "Lookup", "fault_of"]

AnyField: TypeAlias = "models.Field[Any, Any]"


class Lookup:
    """The columns by which a row is found.

    A value of a lookup by several fields is a tuple of their values; by one field it is that field's.

    Args:
        fields: Its fields.
        is_pk: Whether it is the primary key.

    Attributes:
        single: The field, if there is only one.
        columns: The columns, by attribute name. A composite primary key has several.
        name: What the keys of this lookup have between the table and the value.
    """

    def __init__(self, fields: Sequence[AnyField], *, is_pk: bool = False) -> None:
        parts: list[Any] = []
        for field in fields:
            parts += field.fields if isinstance(field, models.CompositePrimaryKey) else [field]
        self.fields = tuple(fields)
        self.is_pk = is_pk
        self.single = fields[0] if len(fields) == 1 else None
        self.name = ",".join(field.column or field.attname for field in fields)
        self.columns = tuple(part.attname for part in parts)

    @cached_property
    def plain_type(self) -> type | None:
        """The type whose values are their own texts, if there is one: what most reads ask for."""
        if self.single is None or not is_comparable(self.single):
            return None
        if is_text(self.single):
            return str
        return int if isinstance(self.single, models.IntegerField) else None

    def text(self, value: Any) -> str | None:
        """Return the canonical text of a value; None if it has none."""
        if type(value) is self.plain_type:
            return str(value)
        if self.single is not None:
            return canonical_text(self.single, value)
        return joined_text(self.fields, value)

    def parts(self, values: Sequence[Any]) -> list[str | None]:
        """Return values as parts of keys; None for a value without a text."""
        if self.plain_type is int and set(map(type, values)) <= {int}:
            return list(map(str, values))
        texts = map(self.text, values)
        return [None if text is None else key_part(text) for text in texts]

    def are_equal(self, one: Any, other: Any) -> bool:
        """Return whether the database holds two values equal, as far as Python can know it."""
        if type(one) is type(other) and type(one) in {int, str} and one == other:
            return True
        text = self.text(one)
        return text is not None and text == self.text(other)

    def value_of(self, row: Mapping[str, Any]) -> Any:
        """Return a row's value, given its columns by attribute name; None if one of them is not known."""
        if self.single is not None:
            value = row.get(self.single.attname)
            return row.get("pk", value) if self.is_pk else value
        values = tuple(row.get(field.attname) for field in self.fields)
        return None if None in values else values

    def filters(self, value: Any) -> dict[str, Any]:
        """Return the arguments by which a queryset finds the row that has a value."""
        if self.is_pk:
            return {"pk": value}
        values = (value,) if self.single is not None else value
        return {field.name: part for field, part in zip(self.fields, values, strict=True)}


def fault_of(model: type[models.Model], names: Sequence[str]) -> str | None:
    """Return why rows cannot be looked up by these fields, as a sentence; None if they can."""
    shown = repr(names[0] if len(names) == 1 else tuple(names))
    try:
        fields: list[Any] = [model._meta.get_field(name) for name in names]
    except FieldDoesNotExist:
        fields = [None]
    if not all(isinstance(field, models.Field) for field in fields) or not _are_unique(model, fields):
        kind = "a unique field" if len(names) == 1 else "the fields of a UniqueConstraint without a condition"
        return f"{model.__name__}: the lookup {shown} is not {kind}"
    for field in fields:
        if not is_comparable(field):
            return (
                f"{model.__name__}: the lookup {shown} has a {type(field).__name__}; Python and the "
                "database may differ on which of its values are equal. Look rows up by other fields"
            )
    return None


def _are_unique(model: type[models.Model], fields: Sequence[AnyField]) -> bool:
    """Return whether a table of the model allows no two rows with the same values in these columns."""
    concrete = model._meta.concrete_model or model
    return any(
        set(group) == set(fields)
        for part in (concrete, *concrete._meta.get_parent_list())
        for group in unique_groups(part._meta)
    )
