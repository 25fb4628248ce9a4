"""The canonical text of a value: one text for all values that a column of the database holds equal.

A text is made of what Django would compare the column with, so ``"1"``, ``1``, ``1.0`` and True are one
value of an integer column, and a date and time in any zone is that moment in UTC. A value of a kind
for which Python cannot know what the database holds equal has no text, and nothing is cached for it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models

from cachebackend.backend.scope import digest

__all__ = ["LONGEST_PART", "canonical_text", "is_comparable", "is_text", "key_part"]

#: Characters. A longer text is hashed before it becomes a part of a key.
LONGEST_PART = 100
#: Columns whose values can be equal in the database and not in Python, or the reverse.
_UNKNOWN = (models.FloatField, models.JSONField)


def canonical_text(field: models.Field[Any, Any], value: Any) -> str | None:
    """Return the canonical text of a value that a column is compared with.

    Returns:
        None: the value has no text. It is None, or the column cannot be compared with it, or
        it is of a kind for which Python cannot know what the database holds equal.
    """
    if type(value) is int and isinstance(field, models.IntegerField):
        return str(value)
    try:
        if isinstance(field, models.CompositePrimaryKey):
            return _composite_text(field, value)
        compared = _compared_field(field)
        if isinstance(value, models.Model):
            value = _related_value(field, value)
        return None if value is None else _text(compared, compared.get_prep_value(value))
    except (TypeError, ValueError, OverflowError, ValidationError):
        return None  # the query that is run instead raises Django's own error


def is_comparable(field: models.Field[Any, Any]) -> bool:
    """Return whether Python can know which values a column holds equal."""
    return not isinstance(_compared_field(field), _UNKNOWN)


def is_text(field: models.Field[Any, Any]) -> bool:
    """Return whether a column is compared as text, by a collation of the database."""
    return isinstance(_compared_field(field), models.CharField | models.TextField)


def key_part(text: str) -> str:
    """Return a canonical text as a part of a key: itself, or its hash if it is long or unusual."""
    is_plain = len(text) <= LONGEST_PART and text.isascii() and text.isprintable() and " " not in text
    return text if is_plain and not text.startswith("#") else digest(text)


def _compared_field(field: models.Field[Any, Any]) -> models.Field[Any, Any]:
    """Return the field that decides how a column is compared: for a foreign key, the one that it names."""
    while True:
        if isinstance(field, models.ForeignKey):
            target: Any = field.target_field
            field = target
        elif isinstance(field, models.GeneratedField):
            output: Any = field.output_field
            field = output
        else:
            return field


def _composite_text(field: models.CompositePrimaryKey, value: Any) -> str | None:
    if not isinstance(value, list | tuple):
        return None
    parts: Any = field.fields
    texts = [canonical_text(part, item) for part, item in zip(parts, value, strict=True)]
    if None in texts:
        return None
    return ",".join(str(text).replace("%", "%25").replace(",", "%2C") for text in texts)


def _related_value(field: models.Field[Any, Any], row: models.Model) -> Any:
    """Return the value by which a foreign key refers to a row; None if it cannot refer to such a row."""
    if not isinstance(field, models.ForeignKey) or not isinstance(row, field.related_model):
        return None
    return getattr(row, field.target_field.attname)


def _text(field: models.Field[Any, Any], value: Any) -> str | None:
    if isinstance(field, _UNKNOWN):
        return None
    if isinstance(field, models.GenericIPAddressField):
        address = ipaddress.ip_address(value)
        return f"{address.version}-{address.exploded}"
    if isinstance(field, models.DecimalField):
        return _decimal_text(value, field.decimal_places)
    for kind, text_of in _TEXTS.items():
        if isinstance(value, kind):
            return text_of(value)
    return None


def _decimal_text(value: Decimal, decimal_places: int | None) -> str | None:
    """Return the significant digits and the exponent; None if the column would round the value."""
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):  # not a number, or infinite
        return None
    significant = "".join(map(str, digits)).lstrip("0")
    stripped = significant.rstrip("0")
    exponent += len(significant) - len(stripped)
    if not stripped:
        return "0"
    if decimal_places is not None and -exponent > decimal_places:
        return None
    return f"{'-' if sign else ''}{stripped}e{exponent}"


def _datetime_text(value: datetime) -> str | None:
    if value.tzinfo is None:
        return None if settings.USE_TZ else value.isoformat()
    return value.astimezone(UTC).isoformat() if settings.USE_TZ else None


#: How the text of a value is made, by its type; a type is before those that it is derived from.
_TEXTS: dict[type, Callable[[Any], str | None]] = {
    str: str.__str__,
    bool: str,
    int: int.__repr__,
    UUID: str,
    datetime: _datetime_text,
    date: date.isoformat,
    time: lambda value: None if value.tzinfo else value.isoformat(),
    timedelta: lambda value: str(value // timedelta(microseconds=1)),
    bytes: bytes.hex,
    memoryview: lambda value: value.tobytes().hex(),
}
