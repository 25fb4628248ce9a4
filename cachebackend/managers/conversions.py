"""Values of fields that convert what they read by code of their own.

Such code may depend on the language, the time zone or the release of the project, and may return what no
codec can store. So a row is cached with the value that the database returned, and each read converts it,
as each read from the database would. Django's own fields convert in one way, so their values are cached
converted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from django.db import connections, models
from django.db.models import F
from django.db.models.expressions import Col

from cachebackend.backend.canonical import referred_field

__all__ = ["Conversions", "Unconverted"]

AnyField: TypeAlias = "models.Field[Any, Any]"


class Conversions:
    """What converts the columns of rows of a model by code that is not Django's.

    Args:
        model: The model.

    Attributes:
        positions: The position, among the fields of the model, of each such column.
    """

    def __init__(self, model: type[models.Model]) -> None:
        self._columns: dict[int, Any] = {
            position: field.get_col(model._meta.db_table)
            for position, field in enumerate(model._meta.concrete_fields)
            # A key is compared, so its field converts as Django does; without keys, no row is cached
            if field not in model._meta.pk_fields and _has_own_code(field)
        }
        self.positions = frozenset(self._columns)

    def of(self, row: Sequence[Any], using: str) -> Sequence[Any]:
        """Return the columns of a row, converted."""
        connection, converted = connections[using], [*row]
        for position, column in self._columns.items():
            for convert in column.get_db_converters(connection):
                converted[position] = convert(converted[position], column, connection)
        return converted


class Unconverted(F):
    """A column whose field does not convert what is read."""

    def resolve_expression(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102  # as Django's
        column: Any = super().resolve_expression(*args, **kwargs)
        return _UnconvertedColumn(column.alias, column.target, column.output_field)


class _UnconvertedColumn(Col):
    def get_db_converters(self, _: Any) -> list[Any]:
        """Return no converters of the field; those of the database still convert the value."""
        return []


def _has_own_code(field: AnyField) -> bool:
    """Return whether code that is not Django's converts what is read of a field."""
    referred = referred_field(field)
    if referred is not None and _has_own_code(referred):
        return True
    converts = (getattr(field, "from_db_value", None), field.get_db_converters)
    nested = getattr(field, "base_field", None)  # of an array
    return (
        any(each is not None and not _is_of_django(each) for each in converts)
        or getattr(field, "decoder", None) is not None
        or (nested is not None and _has_own_code(nested))
    )


def _is_of_django(method: Any) -> bool:
    return str(getattr(method, "__module__", "")).startswith("django.")
