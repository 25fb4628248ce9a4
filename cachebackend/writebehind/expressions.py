"""What may be written behind: a value, ``F(field) ± n``, ``Greatest`` or ``Least`` of the field itself."""

from __future__ import annotations

from reprlib import repr as short
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.expressions import Combinable, CombinedExpression, F, Value
from django.db.models.functions import Greatest, Least

from cachebackend.effects import Argument
from cachebackend.errors import WriteBehindRefusedError
from cachebackend.writebehind.wire import NULL, checked_value, wire_of

__all__ = ["AT_LEAST", "AT_MOST", "DELTA", "KINDS", "PUT", "write_of"]

#: The kinds of write, as the fold script and the batch's fields have them.
PUT = b"p"
DELTA = b"d"
AT_LEAST = b"g"
AT_MOST = b"l"
KINDS = (PUT, DELTA, AT_LEAST, AT_MOST)
#: What a node's counter holds.
_INT64 = 2**63 - 1


def write_of(field: models.Field[Any, Any], change: Any) -> tuple[bytes, Argument]:
    """Return the kind of a write and what travels.

    Args:
        field: The column that is written.
        change: A value, or an expression of the column itself.

    Raises:
        WriteBehindRefusedError: It is neither, or the field does not take it.
    """
    if not hasattr(change, "resolve_expression"):
        return PUT, _put(field, change)
    match change:
        case CombinedExpression(connector=Combinable.ADD, lhs=F() as own, rhs=Value(value=addend)) | (
            CombinedExpression(connector=Combinable.ADD, lhs=Value(value=addend), rhs=F() as own)
        ) if _names(own, field):
            return DELTA, _delta(field, addend)
        case CombinedExpression(connector=Combinable.SUB, lhs=F() as own, rhs=Value(value=addend)) if _names(
            own, field
        ):
            return DELTA, -_delta(field, addend)
        case Greatest() | Least() if (bound := _bound(field, change)) is not None:
            return AT_LEAST if isinstance(change, Greatest) else AT_MOST, _clamp(field, bound)
    message = (
        f"{field}: write-behind takes a value, F({field.name!r}) ± n, or Greatest or Least of "
        f"F({field.name!r}) and a value, not {change}; write anything else with QuerySet.update()"
    )
    raise WriteBehindRefusedError(message)


def _names(own: Any, field: models.Field[Any, Any]) -> bool:
    return own.name in {field.name, field.attname}


def _bound(field: models.Field[Any, Any], change: Greatest | Least) -> Any:
    """Return the value that the field itself is compared with; None if it is none, or something else is."""
    match change.get_source_expressions():
        case [F() as own, Value(value=bound)] | [Value(value=bound), F() as own] if _names(own, field):
            return bound
    return None


def _clamp(field: models.Field[Any, Any], bound: Any) -> bytes:
    if not wire_of(field).is_integer:
        message = (
            f"{field}: a {type(field).__name__} has no Greatest or Least behind, for the queue knows the "
            "order of numbers and times only; write it with QuerySet.update()"
        )
        raise WriteBehindRefusedError(message)
    wire = _put(field, bound)[1:]
    if abs(int(wire)) > _INT64:
        message = f"{field}: to compare with {bound} is beyond 64 bits"
        raise WriteBehindRefusedError(message)
    return wire


def _put(field: models.Field[Any, Any], value: Any) -> bytes:
    if value is None:
        if not field.null:
            message = f"{field}: the column does not take None"
            raise WriteBehindRefusedError(message)
        return NULL
    if isinstance(field, models.ForeignKey) and isinstance(value, models.Model):
        value = _referred(field, value)
    try:
        return b"=" + wire_of(field).dump(checked_value(field, value))
    except ValidationError as error:
        message = f"{field}: {' '.join(error.messages)}"
        raise WriteBehindRefusedError(message) from error
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        message = f"{field}: cannot be {short(value)}: {error}"
        raise WriteBehindRefusedError(message) from error


def _referred(field: models.ForeignKey[Any, Any], row: models.Model) -> Any:
    """Return the value of a row that a foreign key refers to it by."""
    model = field.target_field.model
    if not isinstance(row, model):
        message = f"{field}: refers to a {model.__name__}, not to {row!r}"
        raise WriteBehindRefusedError(message)
    return getattr(row, field.target_field.attname)


def _delta(field: models.Field[Any, Any], addend: Any) -> int:
    wire = wire_of(field)
    delta = wire.delta
    if delta is None:
        message = f"{field}: nothing can be added to a {type(field).__name__} behind; write a value"
        raise WriteBehindRefusedError(message)
    try:
        whole = delta(addend)
    except (ArithmeticError, TypeError, ValueError) as error:
        message = f"{field}: {short(addend)} cannot be added: {error}"
        raise WriteBehindRefusedError(message) from error
    if abs(whole) > wire.largest_delta:
        message = f"{field}: to add {addend} is beyond what the column, or 64 bits, can hold"
        raise WriteBehindRefusedError(message)
    return whole
