"""The canonical text of a value: one text for all values that a column of the database holds equal.

A text is made of what Django would compare the column with, so ``"1"``, ``1``, ``1.0`` and True are one
value of an integer column, and a date and time in any zone is that moment in UTC.

Only Django's own fields have texts, and fields derived from them that keep the methods which decide
how values are compared and read. The database may hold two values of any other field equal that
Python holds different: then the absence of one would outlive an insert of the other. Such a value has
no text, nothing is cached for it, and the database is asked. The same holds for an expression.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models

from cachebackend.backend.scope import digest
from cachebackend.interrupts import raise_interrupt

__all__ = [
    "LONGEST_PART",
    "canonical_text",
    "django_class",
    "is_comparable",
    "is_text",
    "joined_text",
    "key_part",
    "key_parts",
    "referred_field",
]

#: Characters. A longer text is hashed before it becomes a part of a key.
LONGEST_PART = 100
#: Digits. SQLite holds decimals as floats: with more digits, different decimals can be equal.
_DECIMAL_DIGITS = 15
#: The methods of a field that decide how its values are compared in the database, and read from it.
_DECIDING = (
    "cast_db_type",
    "db_parameters",
    "db_type",
    "from_db_value",
    "get_db_converters",
    "get_db_prep_value",
    "get_lookup",
    "get_prep_value",
    "get_transform",
    "target_field",
    "to_python",
)
AnyField: TypeAlias = "models.Field[Any, Any]"
#: Whether the fields of a class compare and read values by the methods of Django's class.
_decide_as_django: dict[type[AnyField], bool] = {}
F = TypeVar("F", bound=Callable[..., Any])


def _remember(function: F) -> F:
    """Return a function of a class of fields that remembers its results."""
    return cache(function)  # type: ignore[return-value]  # mypy takes the hash of a field for that of its class


def canonical_text(field: AnyField, value: Any) -> str | None:
    """Return the canonical text of a value that a column is compared with.

    Returns:
        None: the value has no text. It is None or an expression, or the column cannot be compared
        with it, or Python cannot know which values the database holds equal to it.
    """
    try:
        if isinstance(field, models.CompositePrimaryKey):
            return _composite_text(field, value)
        compared = _compared_field(field)
        kind = _kind_of(type(compared)) if compared is not None else None
        if kind is None or compared is None or hasattr(value, "resolve_expression"):
            return None
        if isinstance(value, models.Model):
            value = _related_value(field, value)
        return None if value is None else kind.text(compared, compared.get_prep_value(value))
    except (TypeError, ValueError, OverflowError, ValidationError) as error:
        raise_interrupt(error)
        return None  # the query that is run instead raises Django's own error


def is_comparable(field: AnyField) -> bool:
    """Return whether Python can know which values a column holds equal."""
    if isinstance(field, models.CompositePrimaryKey):
        parts: Any = field.fields
        return all(map(is_comparable, parts))
    compared = _compared_field(field)
    return compared is not None and _kind_of(type(compared)) is not None


def is_text(field: AnyField) -> bool:
    """Return whether a column is compared as text, by a collation of the database."""
    compared = _compared_field(field)
    return compared is not None and _kind_of(type(compared)) is _TEXT


def key_part(text: str) -> str:
    """Return a canonical text as a part of a key: itself, or its hash if it is long or unusual."""
    is_plain = len(text) <= LONGEST_PART and text.isascii() and text.isprintable() and " " not in text
    return text if is_plain and not text.startswith("#") else digest(text)


def key_parts(field: AnyField, values: Sequence[Any]) -> list[str | None]:
    """Return values of a field as parts of keys; None for a value without a canonical text."""
    compared = None if isinstance(field, models.CompositePrimaryKey) else _compared_field(field)
    if isinstance(compared, models.IntegerField) and set(map(type, values)) <= {int}:
        return list(map(str, values))  # a column of integers has the same text as each of its values
    texts = [canonical_text(field, value) for value in values]
    return [None if text is None else key_part(text) for text in texts]


@_remember
def django_class(field_class: type[AnyField]) -> type[AnyField]:
    """Return the class of Django that a class of fields is, or is derived from."""
    return next(
        each
        for each in field_class.__mro__
        if issubclass(each, models.Field) and each.__module__.startswith("django.db.models.")
    )


def _decides_as_django(field: AnyField) -> bool:
    """Return whether a field compares and reads values by the methods of Django's class."""
    field_class = type(field)
    decides = _decide_as_django.get(field_class)
    if decides is None:
        is_same_type = field.get_internal_type() == django_class(field_class).get_internal_type(field)
        decides = _decide_as_django[field_class] = is_same_type and _has_methods_of_django(field_class)
    return decides


def _has_methods_of_django(field_class: type[AnyField]) -> bool:
    base, own_class = django_class(field_class), cast("Any", field_class)
    exact = own_class.get_lookups()["exact"]
    return exact.__module__.startswith("django.db.models.") and all(
        getattr(field_class, name, None) is getattr(base, name, None) for name in _DECIDING
    )


def referred_field(field: AnyField) -> AnyField | None:
    """Return the field that holds the values of another one: of a foreign key or a generated column."""
    if isinstance(field, models.ForeignKey):
        return field.target_field
    return cast("AnyField", field.output_field) if isinstance(field, models.GeneratedField) else None


def _compared_field(field: AnyField) -> AnyField | None:
    """Return the field that decides how a column is compared; None if it is not one of Django's."""
    compared: AnyField | None = field
    while compared is not None and _decides_as_django(compared):
        field, compared = compared, referred_field(compared)
    return field if compared is None else None


def _composite_text(field: models.CompositePrimaryKey, value: Any) -> str | None:
    if not isinstance(value, list | tuple):
        return None
    parts: Any = field.fields
    return joined_text(parts, value)


def joined_text(fields: Sequence[AnyField], values: Sequence[Any]) -> str | None:
    """Return the canonical text of the values that several columns have together; None if one has none."""
    texts = [canonical_text(field, value) for field, value in zip(fields, values, strict=True)]
    if None in texts:
        return None
    return ",".join(str(text).replace("%", "%25").replace(",", "%2C") for text in texts)


def _related_value(field: AnyField, row: models.Model) -> Any:
    """Return the value by which a foreign key refers to a row; None if it cannot refer to such a row."""
    if not isinstance(field, models.ForeignKey) or not isinstance(row, field.related_model):
        return None
    return getattr(row, field.target_field.attname)


class _Kind(NamedTuple):
    """How the text of a field's values is made.

    Attributes:
        types: The types that the database is asked with. A value of another type has no text.
        text_of: Returns the text of a value.
        is_exact: Whether a value of a derived type has no text: it may be sent in another form.
    """

    types: tuple[type, ...]
    text_of: Callable[[Any, Any], str | None]
    is_exact: bool = True

    def text(self, field: AnyField, value: Any) -> str | None:
        if isinstance(value, date | time):
            value = self._plain(value)
        is_known = type(value) in self.types or (not self.is_exact and isinstance(value, self.types))
        return self.text_of(field, value) if is_known else None

    def _plain(self, value: Any) -> Any:
        """Return a date or time of a derived type as one of the type itself, if that is equal.

        Libraries that set the clock of tests return such values. One that counts nanoseconds has no text.
        """
        kind = self.types[0]
        if type(value) is kind or not isinstance(value, kind):
            return value
        plain = kind.fromisoformat(value.isoformat())  # type: ignore[attr-defined]  # of a date or time
        return plain if plain == value else value


def _address_text(_: AnyField, value: str) -> str:
    address = ipaddress.ip_address(value)
    return f"{address.version}-{address.exploded}"


def _decimal_text(field: Any, value: Decimal) -> str | None:
    """Return the significant digits and the exponent; None if the column would round the value."""
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):  # not a number, or infinite
        return None
    significant = "".join(map(str, digits)).lstrip("0")
    stripped = significant.rstrip("0")
    exponent += len(significant) - len(stripped)
    if not stripped:
        return "0"
    if len(stripped) > _DECIMAL_DIGITS or (
        field.decimal_places is not None and -exponent > field.decimal_places
    ):
        return None
    return f"{'-' if sign else ''}{stripped}e{exponent}"


def _datetime_text(_: AnyField, value: datetime) -> str | None:
    if value.tzinfo is None:
        return None if settings.USE_TZ else value.isoformat()
    return value.astimezone(UTC).isoformat() if settings.USE_TZ else None


_TEXT = _Kind((str,), lambda _, value: str.__str__(value), is_exact=False)
#: How texts are made, by Django's class of the field. Two values of a FloatField or a JSONField may
#: be equal in the database only, and so may two intervals: Postgres holds a month and 30 days equal.
_KINDS: dict[type[AnyField], _Kind] = {
    models.BinaryField: _Kind((bytes, memoryview), lambda _, value: bytes(value).hex()),
    models.BooleanField: _Kind((bool,), lambda _, value: str(value)),
    models.CharField: _TEXT,
    models.DateField: _Kind((date,), lambda _, value: value.isoformat()),
    models.DateTimeField: _Kind((datetime,), _datetime_text),
    models.DecimalField: _Kind((Decimal,), _decimal_text),
    models.FileField: _TEXT,
    models.FilePathField: _TEXT,
    models.GenericIPAddressField: _Kind((str,), _address_text),
    models.IntegerField: _Kind((int,), lambda _, value: str(value)),
    models.TextField: _TEXT,
    models.TimeField: _Kind((time,), lambda _, value: None if value.tzinfo else value.isoformat()),
    models.UUIDField: _Kind((UUID,), lambda _, value: UUID.__str__(value), is_exact=False),
}


@_remember
def _kind_of(field_class: type[AnyField]) -> _Kind | None:
    """Return how texts are made for a class of fields; None if its values have none."""
    return next((_KINDS[each] for each in field_class.__mro__ if each in _KINDS), None)
