"""Conversion of queued values from the encoding that they were queued in to the column's present one.

A write may be queued before the type of its column changes and drained afterwards, and in a rolling
deploy processes with both types write at the same time. A value is converted if that is exact:
between integers, decimals, floats and booleans; from integers, decimals, dates and UUIDs to text; and
between a date and a datetime at midnight (UTC, if the project uses time zones). Any other value keeps its
own encoding: its column is then named ``column NUL code``, and its row is parked with both types
in the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

from django.conf import settings
from django.db import models

from cachebackend.errors import WriteBehindRefusedError
from cachebackend.interrupts import raise_interrupt
from cachebackend.writebehind.encoding import NULL, Encoding, encoding_of, encoding_of_code
from cachebackend.writebehind.expressions import DELTA, PUT

__all__ = [
    "Change",
    "conversion_fault",
    "convert",
    "convert_columns",
    "decode_change",
    "described",
    "find_encoding",
    "pack_changes",
    "split_code",
    "unpack_changes",
]

#: A column and the kind of its change. The column of a value that is not converted is ``column NUL code``.
Change: TypeAlias = tuple[str, bytes]
_KINDS = {
    "i": "an integer",
    "ts": "a datetime",
    "dur": "a duration",
    "d": "a date",
    "t": "a time",
    "b": "a boolean",
    "f": "a float",
    "s": "a text",
    "u": "a UUID",
    "x": "binary",
    "j": "JSON",
}


def convert(encoded: bytes, kind: bytes, code: str, target: Encoding) -> bytes:
    """Return a queued value in another encoding.

    Args:
        encoded: The value.
        kind: The kind of change.
        code: The code of the value's encoding.
        target: The other encoding.

    Raises:
        ArithmeticError, TypeError, ValueError: The value cannot be decoded, or not be converted exactly.
    """
    source = encoding_of_code(code)
    if source is None:
        message = f"no encoding has the code {code!r}"
        raise ValueError(message)
    if kind == PUT:
        if encoded == NULL:
            return NULL
        return b"=" + target.encode(_exact(source.decode(encoded.removeprefix(b"=")), target.code))
    if kind == DELTA and source.decode_delta and target.encode_delta:
        return b"%d" % target.encode_delta(_exact(source.decode_delta(int(encoded)), target.code))
    if kind == DELTA or not target.is_integer:
        message = f"{described(target.code)} has no such change"
        raise TypeError(message)
    return target.encode(_exact(source.decode(encoded), target.code))


def decode_change(encoding: Encoding, kind: bytes, encoded: bytes) -> Any:
    """Return the value of a change: what is put, added, or a bound."""
    if kind == PUT:
        return encoding.decode_put(encoded)
    if kind == DELTA:
        return encoding.decode_delta(int(encoded))  # type: ignore[misc]  # only such fields are given deltas
    return encoding.decode(encoded)


def convert_columns(
    model: type[models.Model], columns: Mapping[Change, dict[Any, bytes]], encodings: Mapping[str, str]
) -> dict[Change, dict[Any, bytes]]:
    """Convert the values of several rows to the present encodings of their columns.

    Args:
        model: The rows' model.
        columns: For each column and kind of change the rows' values.
        encodings: For each column the code of the encoding of its values; a column without one has
            its present encoding.

    Returns:
        The same, with ``column NUL code`` as the column of a value that is not converted.
    """
    fields = {field.column: field for field in model._meta.local_concrete_fields}
    converted: dict[Change, dict[Any, bytes]] = {}
    for (column, kind), values in columns.items():
        code = encodings.get(column)
        target = find_encoding(fields.get(column))
        if code is None or (target is not None and target.code == code):
            converted[column, kind] = values
            continue
        for row, encoded in values.items():
            change, value = _convert_change(target, (column, kind), encoded, code)
            converted.setdefault(change, {})[row] = value
    return converted


def pack_changes(model: type[models.Model], changes: Mapping[Change, bytes]) -> dict[str, list[Any]]:
    """Return the changes of one row, with the codes of their encodings, to be stored for longer."""
    fields = {field.column: field for field in model._meta.local_concrete_fields}
    packed: dict[str, list[Any]] = {"changes": [], "codes": []}
    for (column, kind), value in changes.items():
        name, code = split_code(column)
        encoding = find_encoding(fields.get(name))
        packed["changes"].append([name, kind, value])
        packed["codes"].append(code or (encoding and encoding.code))
    return packed


def unpack_changes(
    model: type[models.Model], stored: Iterable[tuple[str, bytes, bytes, str | None]]
) -> dict[Change, bytes]:
    """Return the changes that ``pack_changes`` packed, converted as ``convert_columns`` does it.

    Args:
        model: The row's model.
        stored: The column, kind, value and code of each change.
    """
    fields = {field.column: field for field in model._meta.local_concrete_fields}
    changes: dict[Change, bytes] = {}
    for column, kind, value, code in stored:
        target = find_encoding(fields.get(column))
        change, converted = _convert_change(target, (column, kind), value, code)
        changes[change] = converted
    return changes


def _convert_change(
    target: Encoding | None, change: Change, encoded: bytes, code: str | None
) -> tuple[Change, bytes]:
    """Return a change and its value in another encoding; if that is not possible, in its own."""
    column, kind = change
    if code is None or (target is not None and target.code == code):
        return change, encoded
    try:
        if target is not None:
            return change, convert(encoded, kind, code, target)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise_interrupt(error)
    return (f"{column}\0{code}", kind), encoded


def split_code(column: str) -> tuple[str, str | None]:
    """Return a column's name, and the code of its values' encoding if they were not converted."""
    name, _, code = column.partition("\0")
    return name, code or None


def conversion_fault(model: type[models.Model], column: str) -> str | None:
    """Return why values of a column cannot be written to the model's table; None if they can.

    Args:
        model: The model.
        column: The column, as ``convert_columns`` names it.
    """
    name, code = split_code(column)
    field = next((each for each in model._meta.local_concrete_fields if each.column == name), None)
    if field is None:
        return f"{model._meta.label} has no column {name!r} any more."
    target = find_encoding(field)
    if target is None:
        return f"{field}: a {type(field).__name__} cannot be written behind."
    if code is None:
        return None
    return (
        f"{field}: the write was queued when the column was {described(code)}, and now it is "
        f"{described(target.code)}; the value cannot be converted exactly."
    )


def find_encoding(field: models.Field[Any, Any] | None) -> Encoding | None:
    """Return the encoding of a field; None if there is no field, or it cannot be written behind."""
    try:
        return None if field is None else encoding_of(field)
    except WriteBehindRefusedError:  # the column has become one that write-behind does not support
        return None


def described(code: str) -> str:
    """Return the type of values that an encoding encodes, as a phrase."""
    if code.startswith("n") and code[1:].isdecimal():
        return f"a decimal with {code[1:]} decimal places"
    return _KINDS.get(code, f"of the type {code!r}")


def _exact(value: Any, code: str) -> Any:
    """Return a value as the type that an encoding encodes.

    Raises:
        ArithmeticError, TypeError, ValueError: It has no such value.
    """
    kind = "n" if code.startswith("n") else code
    convert_value = _EXACT.get((_type_of(value), kind))
    if convert_value is None:
        message = f"{value!r} cannot become {described(code)}"
        raise TypeError(message)
    return convert_value(value)


def _type_of(value: Any) -> str:
    if isinstance(value, int | float | Decimal):
        return "number"
    return type(value).__name__


def _number(value: float | Decimal) -> Decimal:
    """Return a number as a decimal: a float's shortest digits, as Postgres converts it."""
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


def _integer(value: float | Decimal) -> int:
    converted = int(_number(value))
    _require_equal(value, converted)
    return converted


def _float(value: float | Decimal) -> float:
    converted = float(value)
    _require_equal(value, converted)
    return converted


def _boolean(value: float | Decimal) -> bool:
    converted = bool(value)
    _require_equal(value, converted)
    return converted


def _require_equal(value: float | Decimal, converted: float) -> None:
    if _number(converted) != _number(value):
        message = f"{value} is not exactly {converted}"
        raise ValueError(message)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC if settings.USE_TZ else None)


def _day(moment: datetime) -> date:
    if moment.timetz() != _midnight(moment).timetz():
        message = f"{moment} is not midnight"
        raise ValueError(message)
    return moment.date()


def _digits(value: float | Decimal) -> str:
    if isinstance(value, bool | float):
        message = f"{value!r} has several texts"
        raise TypeError(message)
    return format(value, "f" if isinstance(value, Decimal) else "d")


#: How a value of a type becomes exactly one that an encoding with a code encodes.
_EXACT: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("number", "i"): _integer,
    ("number", "n"): _number,
    ("number", "f"): _float,
    ("number", "b"): _boolean,
    ("number", "s"): _digits,
    ("date", "s"): date.isoformat,
    ("UUID", "s"): UUID.__str__,
    ("date", "ts"): _midnight,
    ("datetime", "d"): _day,
}
