"""What can be written behind: a value, ``F(field) ± n``, ``Greatest`` or ``Least`` of the field."""

from __future__ import annotations

from reprlib import repr as short
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.expressions import Combinable, CombinedExpression, F, Value
from django.db.models.functions import Greatest, Least

from cachebackend.errors import WriteBehindRefusedError
from cachebackend.interrupts import raise_interrupt
from cachebackend.writebehind.encoding import NULL, clean_value, encoding_of

__all__ = ["AT_LEAST", "AT_LEAST_LATE", "AT_MOST", "BOUNDS", "DELTA", "KINDS", "PUT", "encode_change"]

#: The most bytes of a value: the default ``proto-max-bulk-len`` of a node, which closes the connection of a
#: client that sends a longer one.
MAX_BYTES = 512 * 2**20
#: The kinds of write, as ``fold.lua`` and the names of a batch's fields have them.
PUT = b"p"
DELTA = b"d"
AT_LEAST = b"g"
AT_MOST = b"l"
#: A lower bound that came after the upper one; only the queue has it.
AT_LEAST_LATE = b"h"
#: The bounds in the order in which they are applied.
BOUNDS = (AT_LEAST, AT_MOST, AT_LEAST_LATE)
KINDS = (PUT, DELTA, *BOUNDS)
#: The largest integer that Redis adds to.
_INT64 = 2**63 - 1


def encode_change(field: models.Field[Any, Any], change: Any) -> tuple[bytes, bytes]:
    """Return the kind of a change, and its encoded value.

    Args:
        field: The column that is changed.
        change: A value, or an expression of the column itself.

    Raises:
        WriteBehindRefusedError: The change is neither, or the field does not accept it.
    """
    if not hasattr(change, "resolve_expression"):
        return PUT, _put(field, change)
    match change:
        case CombinedExpression(connector=Combinable.ADD, lhs=F() as own, rhs=Value(value=addend)) | (
            CombinedExpression(connector=Combinable.ADD, lhs=Value(value=addend), rhs=F() as own)
        ) if _refers_to(own, field):
            return DELTA, b"%d" % _delta(field, addend)
        case CombinedExpression(connector=Combinable.SUB, lhs=F() as own, rhs=Value(value=addend)) if (
            _refers_to(own, field)
        ):
            return DELTA, b"%d" % -_delta(field, addend)
        case Greatest() | Least() if (bound := _bound(field, change)) is not None:
            return AT_LEAST if isinstance(change, Greatest) else AT_MOST, _clamp(field, bound)
    message = (
        f"{field}: write-behind takes a value, F({field.name!r}) ± n, or Greatest or Least of "
        f"F({field.name!r}) and a value, not {change}; write anything else with QuerySet.update()"
    )
    raise WriteBehindRefusedError(message)


def _refers_to(own: Any, field: models.Field[Any, Any]) -> bool:
    return own.name in {field.name, field.attname}


def _bound(field: models.Field[Any, Any], change: Greatest | Least) -> Any:
    """Return the value that is compared with the field itself; None if the comparison is another."""
    match change.get_source_expressions():
        case [F() as own, Value(value=bound)] | [Value(value=bound), F() as own] if _refers_to(own, field):
            return bound
    return None


def _clamp(field: models.Field[Any, Any], bound: Any) -> bytes:
    if not encoding_of(field).is_integer:
        message = (
            f"{field}: write-behind has no Greatest or Least of a {type(field).__name__}, because the queue "
            "compares only numbers and times; write it with QuerySet.update()"
        )
        raise WriteBehindRefusedError(message)
    encoded = _put(field, bound)[1:]
    if abs(int(encoded)) > _INT64:
        message = f"{field}: the bound {bound} is beyond 64 bits"
        raise WriteBehindRefusedError(message)
    return encoded


def _put(field: models.Field[Any, Any], value: Any) -> bytes:
    if value is None:
        if not field.null:
            message = f"{field}: the column does not take None"
            raise WriteBehindRefusedError(message)
        return NULL
    if isinstance(field, models.ForeignKey) and isinstance(value, models.Model):
        value = _referred_value(field, value)
    try:
        encoded = b"=" + encoding_of(field).encode(clean_value(field, value))
    except ValidationError as error:
        message = f"{field}: {' '.join(error.messages)}"
        raise WriteBehindRefusedError(message) from error
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise_interrupt(error)
        message = f"{field}: cannot be {short(value)}: {error}"
        raise WriteBehindRefusedError(message) from error
    if len(encoded) > MAX_BYTES:
        message = f"{field}: the value has {len(encoded) - 1:,} bytes, and a queue node takes {MAX_BYTES:,}"
        raise WriteBehindRefusedError(message)
    return encoded


def _referred_value(field: models.ForeignKey[Any, Any], row: models.Model) -> Any:
    """Return the value by which a foreign key refers to a row."""
    model = field.target_field.model
    if not isinstance(row, model):
        message = f"{field}: refers to a {model.__name__}, not to {row!r}"
        raise WriteBehindRefusedError(message)
    return getattr(row, field.target_field.attname)


def _delta(field: models.Field[Any, Any], addend: Any) -> int:
    encoding = encoding_of(field)
    if encoding.encode_delta is None:
        message = f"{field}: nothing can be added to a {type(field).__name__} behind; write a value"
        raise WriteBehindRefusedError(message)
    try:
        delta = encoding.encode_delta(addend)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise_interrupt(error)
        message = f"{field}: {short(addend)} cannot be added: {error}"
        raise WriteBehindRefusedError(message) from error
    if abs(delta) > encoding.largest_delta:
        message = f"{field}: to add {addend} is beyond what the column, or 64 bits, can hold"
        raise WriteBehindRefusedError(message)
    return delta
