"""The few values that steps write and reads look up, for each kind of column.

There are so few that rows often get a value that another row had, and that lookups often name a
value that no row has.
"""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from django.db import models

from tests.zoo.models import Lowered

__all__ = [
    "candidates",
    "field_value",
    "key_arguments",
    "number_field",
    "primary_keys",
    "spellings",
    "text_field",
]

_TEXTS = ("a", "b", "B", "é b", "tag:zoo", "x" * 38)
_DECIMALS = (Decimal("1.5"), Decimal("1.50"), Decimal(-2), Decimal(0), None)
_MOMENTS = (
    datetime(2026, 1, 1, 12, tzinfo=UTC),
    datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1))),  # the same moment
    datetime(2026, 1, 1, 13, tzinfo=UTC),
    None,
)
_CODES = (uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=3), None)
_DAYS = (date(2026, 1, 1), date(2026, 1, 2), None)
_LENGTHS = (timedelta(days=1), timedelta(days=30), timedelta(0), None)
_BYTES = (b"\xde\xad", b"\\x", b"", None)
_HANDLES = ("a", "b", "none")
_LONG_TEXTS = ("1", "None", "#" + "0" * 32, "y" * 290)


def candidates(field: models.Field[Any, Any]) -> list[Any]:
    """Return the values that steps may write to a column; for a foreign key, primary keys of its rows."""
    if isinstance(field, models.ForeignKey):
        return primary_keys(field.related_model) + [None] * field.null
    found: tuple[Any, ...]
    if isinstance(field, Lowered):
        found = _HANDLES
    elif isinstance(field, models.CharField):
        found = _LONG_TEXTS if field.primary_key else _TEXTS
    elif isinstance(field, models.DecimalField):
        found = _DECIMALS
    elif isinstance(field, models.DateTimeField):
        found = _MOMENTS
    elif isinstance(field, models.DateField):
        found = _DAYS
    elif isinstance(field, models.DurationField):
        found = _LENGTHS
    elif isinstance(field, models.BinaryField):
        found = _BYTES
    elif isinstance(field, models.UUIDField):
        found = _CODES
    else:
        found = (1, 2, 3, 4, 6)
    if field.null:
        return [*(value for value in found if value is not None), None]
    return [value for value in found if value is not None]


def spellings(field: models.Field[Any, Any], value: Any) -> list[Any]:
    """Return several forms in which a caller may ask for one value of a column, the value first."""
    if isinstance(field, models.ForeignKey):
        return [value, field.related_model(**key_arguments(field.related_model, value))]
    if isinstance(field, Lowered):
        return [value, value.upper()]
    if isinstance(value, datetime):
        return [value, value.astimezone(timezone(timedelta(hours=5))), value.isoformat()]
    if isinstance(value, Decimal):
        return [value, value.quantize(Decimal("1.00")), str(value)]
    if isinstance(value, int):
        return [value, str(value)]
    if isinstance(value, uuid.UUID):
        return [value, value.hex, str(value).upper()]
    return [value, value.isoformat()] if isinstance(value, date) else [value]


def primary_keys(model: type[models.Model]) -> list[Any]:
    """Return the primary keys that steps give to rows."""
    if isinstance(model._meta.pk, models.CompositePrimaryKey):
        return [(1, "a"), (1, "b"), (2, "a")]
    pk = model._meta.pk
    if isinstance(pk, models.OneToOneField):
        return primary_keys(pk.related_model)
    found = list(dict.fromkeys(candidates(pk)))
    return found[:4] if isinstance(pk, models.CharField) else found[:3]


def key_arguments(model: type[models.Model], pk: Any) -> dict[str, Any]:
    """Return the argument of a model that gives an instance its primary key.

    ``pk=`` would set the key of the parent too, which is another value if the child has its own key.
    """
    name = "pk" if isinstance(model._meta.pk, models.CompositePrimaryKey) else model._meta.pk.attname
    return {name: pk}


def field_value(field: models.Field[Any, Any], number: int) -> Any:
    """Return one of the values of a column."""
    found = candidates(field)
    return found[number % len(found)]


def text_field(model: type[models.Model]) -> str | None:
    """Return the name of the first column of text that is not a part of the primary key."""
    return next((field.name for field in _own(model) if isinstance(field, models.CharField)), None)


def number_field(model: type[models.Model]) -> str:
    """Return the name of the last column of integers that is not a key."""
    numbers = [field.name for field in _own(model) if type(field) is models.IntegerField]
    return numbers[-1]


def _own(model: type[models.Model]) -> list[models.Field[Any, Any]]:
    pk = model._meta.pk
    parts = pk.fields if isinstance(pk, models.CompositePrimaryKey) else [pk]
    return [field for field in model._meta.concrete_fields if field not in parts]
