"""How the values of a column travel through the queue: exactly, and as integers where they can be added.

=================  ==================================  ==================
field              travels as                          a delta is
=================  ==================================  ==================
integers, keys     decimal digits                      an integer
Decimal            value * 10 ** decimal_places        a Decimal
DateTime           microseconds since 1970 (UTC)       a timedelta
Duration           microseconds                        a timedelta
Date               days since 0001-01-01, from 1       refused
Time               microseconds since midnight         refused
Boolean            0 or 1                              refused
Float              its shortest exact digits           refused: adding floats rounds
Char, Text, ...    UTF-8                               refused
UUID               32 hexadecimal digits               refused
Binary             itself                              refused
JSON               JSON text                           refused
=================  ==================================  ==================

A put carries ``=`` and the value, or ``0`` for NULL. What travels as an integer has a
least and a greatest too, within 64 bits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from operator import add
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from psycopg.types.json import Jsonb

from cachebackend.errors import WriteBehindRefusedError

__all__ = ["NULL", "Wire", "checked_value", "wire_of"]

#: What a node's counter holds.
_INT64 = 2**63 - 1
#: What a put of NULL carries.
NULL = b"0"
_MICROSECOND = timedelta(microseconds=1)
#: More digits than Postgres' numeric has; Python's own context would round to 28.
_EXACT = Context(prec=150_000, Emax=150_000, Emin=-150_000, traps=[Inexact, InvalidOperation, Overflow])
#: NUL as JSON writes it, unless its own backslash is escaped by another: then it is text.
_JSON_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class Wire(NamedTuple):
    """How one column's values travel; ``delta`` and ``undelta`` are None where none can be added.

    Attributes:
        dump: A value, as bytes; raises TypeError or ValueError if it cannot travel.
        load: The bytes, as the value.
        delta: What is added, as an integer; raises TypeError, ValueError or ArithmeticError.
        undelta: The integer, as what is added.
        plus: Adds it to a value, exactly.
        adapt: The bytes, as what psycopg is given, where that is not the value.
        is_integer: Whether the bytes are an integer in the order of the values.
        largest_delta: What, added to any value of the column, always leaves its range; within 64 bits.
        integers: Those that the field takes as they are, without asking its validators.
    """

    dump: Callable[[Any], bytes]
    load: Callable[[bytes], Any]
    delta: Callable[[Any], int] | None = None
    undelta: Callable[[int], Any] | None = None
    plus: Callable[[Any, Any], Any] = add
    adapt: Callable[[bytes], Any] | None = None
    is_integer: bool = False
    largest_delta: int = 0
    integers: range = range(0)

    def put(self, travels: bytes) -> Any:
        """Return the value that a put carries."""
        return None if travels == NULL else self.load(travels[1:])


def wire_of(field: models.Field[Any, Any]) -> Wire:
    """Return how a field's values travel.

    Raises:
        WriteBehindRefusedError: Its kind is not known here.
    """
    # Kept by the field itself: it is asked for with every write
    wire: Wire | None = field.__dict__.get("_ringcache_wire")
    if wire is None:
        found = _find_wire(field)
        wire = field.__dict__["_ringcache_wire"] = found._replace(
            largest_delta=_largest_delta(field),
            integers=_integers(field),
        )
    return wire


def checked_value(field: models.Field[Any, Any], value: Any) -> Any:
    """Return a value as the column has it; a foreign key takes what the column does that it refers to.

    Raises:
        ValidationError: The field's validators refuse it: it is too long, too large, no number.
        AttributeError, ArithmeticError, TypeError, ValueError: It is not of the field's kind at all.
    """
    if type(value) is int and value in wire_of(field).integers:  # no proxy, for which a range is searched
        return value
    if isinstance(field, models.ForeignKey):
        value = checked_value(field.target_field, value)
    else:
        value = field.to_python(value)
    field.run_validators(value)
    return value


def _find_wire(field: models.Field[Any, Any]) -> Wire:
    if isinstance(field, models.ForeignKey):  # nothing is added to a reference, and it has no order
        return wire_of(field.target_field)._replace(delta=None, undelta=None, is_integer=False)
    if any(not _is_djangos(field, method) for method in _CONVERSIONS):
        message = f"{field}: a {type(field).__name__} stores its values in its own way; write it with save()"
        raise WriteBehindRefusedError(message)
    if isinstance(field, models.DecimalField):
        return _decimal(field.decimal_places or 0)
    if isinstance(field, models.JSONField):
        return _json(field)
    for kind, wire in _WIRES.items():
        if isinstance(field, kind):
            return wire
    message = f"write-behind cannot carry a {type(field).__name__} ({field}); write it with save()"
    raise WriteBehindRefusedError(message)


def _largest_delta(field: models.Field[Any, Any]) -> int:
    """Return ``Wire.largest_delta``."""
    if isinstance(field, models.DecimalField):
        digits: int = field.max_digits or 18
        return int(min(10**digits, _INT64))
    bits = {"SmallIntegerField": 16, "PositiveSmallIntegerField": 16}
    bits |= {"IntegerField": 32, "PositiveIntegerField": 32}
    return int(min(2 ** bits.get(field.get_internal_type(), 63), _INT64))


def _integers(field: models.Field[Any, Any]) -> range:
    """Return ``Wire.integers``: none, where the field has more to say of one than a least and a most."""
    kind = type(field)
    asked = (getattr(kind, "to_python", None), kind.run_validators)
    if asked != (models.IntegerField.to_python, models.Field.run_validators):
        return range(0)
    least, most = -_INT64 - 1, _INT64
    for validator in field.validators:
        limit = getattr(validator, "limit_value", None)
        if type(validator) is MinValueValidator and type(limit) is int:
            least = max(least, limit)
        elif type(validator) is MaxValueValidator and type(limit) is int:
            most = min(most, limit)
        else:
            return range(0)
    return range(least, most + 1)


#: What a field overrides whose column does not hold its values as they are.
_CONVERSIONS = ("get_prep_value", "get_db_prep_value", "get_db_prep_save", "from_db_value")


def _is_djangos(field: models.Field[Any, Any], method: str) -> bool:
    made = getattr(type(field), method, None)
    return made is None or made.__module__.startswith("django.")


def _decimal(places: int) -> Wire:
    def scaled(value: Any) -> int:
        shifted = _EXACT.scaleb(Decimal(value), places)
        if shifted != int(shifted):
            message = f"{value} has more than {places} decimal places"
            raise ValueError(message)
        return int(shifted)

    def added(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Decimal | int):
            message = f"a Decimal or an integer can be added, not {value!r}"
            raise TypeError(message)
        return scaled(value)

    def unscaled(value: int) -> Decimal:
        return _EXACT.scaleb(Decimal(value), -places)

    return Wire(
        lambda v: b"%d" % scaled(v),
        lambda w: unscaled(int(w)),
        added,
        unscaled,
        _EXACT.add,
        is_integer=True,
    )


def _json(field: models.JSONField[Any, Any]) -> Wire:
    def dump(value: Any) -> bytes:
        text = json.dumps(value, cls=field.encoder, allow_nan=False, ensure_ascii=False)
        if _JSON_NUL.search(text):
            message = "Postgres' jsonb holds no NUL character"
            raise ValueError(message)
        return text.encode()

    def load(wire: bytes) -> Any:
        return json.loads(wire, cls=field.decoder)

    def adapt(wire: bytes) -> Jsonb:
        # Kept as text on the way: what the model's decoder makes of it is the model's affair
        text = wire.decode()  # now, and not when psycopg asks for it: it may be damaged
        return Jsonb(None, dumps=lambda _: text)

    return Wire(dump, load, adapt=adapt)


def _microseconds(value: Any) -> int:
    if not isinstance(value, timedelta):
        message = f"a timedelta can be added, not {value!r}"
        raise TypeError(message)
    return value // _MICROSECOND


def _since_epoch(value: datetime) -> int:
    start = datetime(1970, 1, 1, tzinfo=UTC if settings.USE_TZ else None)  # as the database has it
    return (value - start) // _MICROSECOND


def _from_epoch(micro: int) -> datetime:
    start = datetime(1970, 1, 1, tzinfo=UTC if settings.USE_TZ else None)  # as the database has it
    return start + micro * _MICROSECOND


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        message = f"an integer can be added, not {value!r}"
        raise TypeError(message)
    return value


def _since_midnight(value: time) -> int:
    if value.tzinfo is not None:
        message = f"a time without a time zone can be stored, not {value!r}"
        raise ValueError(message)
    whole = timedelta(
        hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond
    )
    return whole // _MICROSECOND


def _from_midnight(micro: int) -> time:
    return (datetime(1970, 1, 1) + micro * _MICROSECOND).time()


_INTEGER = Wire(lambda v: b"%d" % v, int, _whole, int, is_integer=True)


def _text(value: str) -> bytes:
    if "\0" in value:
        message = "Postgres' text holds no NUL character"
        raise ValueError(message)
    return value.encode()


_TEXT = Wire(_text, bytes.decode)
_WIRES: dict[type[models.Field[Any, Any]], Wire] = {
    models.IntegerField: _INTEGER,
    models.DateTimeField: Wire(
        lambda v: b"%d" % _since_epoch(v),
        lambda w: _from_epoch(int(w)),
        _microseconds,
        lambda micro: micro * _MICROSECOND,
        is_integer=True,
    ),
    models.DateField: Wire(
        lambda v: b"%d" % v.toordinal(), lambda w: date.fromordinal(int(w)), is_integer=True
    ),
    models.TimeField: Wire(
        lambda v: b"%d" % _since_midnight(v), lambda w: _from_midnight(int(w)), is_integer=True
    ),
    models.DurationField: Wire(
        lambda v: b"%d" % _microseconds(v),
        lambda w: int(w) * _MICROSECOND,
        _microseconds,
        lambda micro: micro * _MICROSECOND,
        is_integer=True,
    ),
    models.BooleanField: Wire(lambda v: b"1" if v else b"0", lambda w: w == b"1"),
    models.FloatField: Wire(lambda v: repr(float(v)).encode(), float),
    models.UUIDField: Wire(lambda v: v.hex.encode(), lambda w: UUID(w.decode())),
    models.BinaryField: Wire(bytes, bytes),
    models.CharField: _TEXT,
    models.TextField: _TEXT,
    models.GenericIPAddressField: _TEXT,
}
