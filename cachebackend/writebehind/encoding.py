"""The encoding of a column's values in the queue: exact, and as integers where values can be added.

=================  =====  ==================================  ==================
field              code   encoded as                          a delta is
=================  =====  ==================================  ==================
integers, keys     i      decimal digits                      an integer
Decimal            n2     value * 10 ** decimal_places (2)    a Decimal
DateTime           ts     microseconds since 1970 (UTC)       a timedelta
Duration           dur    microseconds                        a timedelta
Date               d      days since 0001-01-01, from 1       refused
Time               t      microseconds since midnight         refused
Boolean            b      0 or 1                              refused
Float              f      its shortest exact digits           refused: adding floats rounds
Char, Text, ...    s      UTF-8                               refused
UUID               u      32 hexadecimal digits               refused
Binary             x      the bytes                           refused
JSON               j      JSON text                           refused
=================  =====  ==================================  ==================

The code is queued with the values, so that they are read correctly after the column's type has
changed (``conversion``). A put is ``=`` and the encoded value, or ``0`` for NULL. Values that are
encoded as integers also take a lower and an upper bound, within 64 bits.
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
from django.utils import timezone

from cachebackend.errors import WriteBehindRefusedError
from cachebackend.protocol.queue.encodings import encoding_entry

__all__ = ["NULL", "Encoding", "clean_value", "encoding_of", "encoding_of_code"]

#: The largest integer that Redis adds to.
_INT64 = 2**63 - 1
#: An encoded put of NULL.
NULL = b"0"
_MICROSECOND = timedelta(microseconds=1)
#: More digits than Postgres' numeric has; Python's default context would round to 28.
_EXACT = Context(prec=150_000, Emax=150_000, Emin=-150_000, traps=[Inexact, InvalidOperation, Overflow])
#: The code of a decimal: its number of decimal places; Postgres' numeric has no more than 16,383.
_DECIMAL_CODE = re.compile(r"n([0-9]{1,5})")
#: NUL as JSON writes it, unless another backslash escapes its own: then it is text.
_JSON_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class Encoding(NamedTuple):
    """The encoding of one column. ``encode_delta`` and ``decode_delta`` are None where nothing can be added.

    Attributes:
        code: The name of the encoding; two columns with the same code encode in the same way.
        encode: Encodes a value; raises TypeError or ValueError if it cannot be encoded.
        decode: Decodes a value.
        encode_delta: Returns a delta as an integer; raises TypeError, ValueError or ArithmeticError.
        decode_delta: Returns the delta of an integer.
        add: Adds a delta to a value, exactly.
        adapt: Converts an encoded value for psycopg, where that is not the decoded value.
        is_integer: Whether encoded values are integers in the order of the values.
        largest_delta: The largest delta; a larger one always leaves the column's range or 64 bits.
        integers: The integers that the field accepts without running its validators.
        entry: The column and the code, as the queue stores them.
    """

    code: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    encode_delta: Callable[[Any], int] | None = None
    decode_delta: Callable[[int], Any] | None = None
    add: Callable[[Any, Any], Any] = add
    adapt: Callable[[bytes], Any] | None = None
    is_integer: bool = False
    largest_delta: int = 0
    integers: range = range(0)
    entry: bytes = b""

    def decode_put(self, encoded: bytes) -> Any:
        """Return the value of an encoded put."""
        return None if encoded == NULL else self.decode(encoded[1:])


def encoding_of(field: models.Field[Any, Any]) -> Encoding:
    """Return the encoding of a field.

    Raises:
        WriteBehindRefusedError: The kind of field is not supported.
    """
    # Cached on the field: every write needs it
    encoding: Encoding | None = field.__dict__.get("_ringcache_encoding")
    if encoding is None:
        encoding = _find_encoding(field)
        encoding = field.__dict__["_ringcache_encoding"] = encoding._replace(
            largest_delta=_largest_delta(field),
            integers=_integers(field),
            entry=encoding_entry(str(field.column), encoding.code),
        )
    return encoding


def encoding_of_code(code: str) -> Encoding | None:
    """Return the encoding with a code, without what depends on one field; None if there is none."""
    if decimal := _DECIMAL_CODE.fullmatch(code):
        return _decimal(int(decimal[1]))
    return _BY_CODE.get(code)


def clean_value(field: models.Field[Any, Any], value: Any) -> Any:
    """Return a value as the column stores it. A foreign key accepts what the referenced column accepts.

    Raises:
        ValidationError: The field's validators refuse it: too long, too large, not a number.
        AttributeError, ArithmeticError, TypeError, ValueError: It is not of the field's type at all.
    """
    # An exact int only: for a subclass, ``in range`` compares with each integer of the range
    if type(value) is int and value in encoding_of(field).integers:
        return value
    if isinstance(field, models.ForeignKey):
        value = clean_value(field.target_field, value)
    else:
        value = field.to_python(value)
    field.run_validators(value)
    return value


def _find_encoding(field: models.Field[Any, Any]) -> Encoding:
    if isinstance(field, models.ForeignKey):  # a reference has no sum and no order
        return encoding_of(field.target_field)._replace(
            encode_delta=None, decode_delta=None, is_integer=False
        )
    if isinstance(field, models.CompositePrimaryKey):
        message = f"{field.model.__name__} has a composite primary key; write its rows with save()"
        raise WriteBehindRefusedError(message)
    if any(not _is_djangos(field, method) for method in _CONVERSIONS):
        message = f"{field}: a {type(field).__name__} stores its values in its own way; write it with save()"
        raise WriteBehindRefusedError(message)
    if isinstance(field, models.DecimalField):
        return _decimal(field.decimal_places or 0)
    if isinstance(field, models.JSONField):
        return _json(field)
    if isinstance(field, models.FloatField) and field.primary_key:
        return _FLOAT._replace(encode=lambda value: repr(float(value) + 0.0).encode())  # -0.0 is the key 0.0
    for kind, encoding in _ENCODINGS.items():
        if isinstance(field, kind):
            return encoding
    message = f"write-behind cannot encode a {type(field).__name__} ({field}); write it with save()"
    raise WriteBehindRefusedError(message)


def _largest_delta(field: models.Field[Any, Any]) -> int:
    """Return ``Encoding.largest_delta``."""
    if isinstance(field, models.DecimalField):
        digits: int = field.max_digits or 18
        return int(min(10**digits, _INT64))
    bits = {"SmallIntegerField": 16, "PositiveSmallIntegerField": 16}
    bits |= {"IntegerField": 32, "PositiveIntegerField": 32}
    return int(min(2 ** bits.get(field.get_internal_type(), 63), _INT64))


def _integers(field: models.Field[Any, Any]) -> range:
    """Return ``Encoding.integers``: empty if the field validates more than a minimum and a maximum."""
    kind = type(field)
    methods = (getattr(kind, "to_python", None), kind.run_validators)
    if methods != (models.IntegerField.to_python, models.Field.run_validators):
        return range(0)
    minimum, maximum = -_INT64 - 1, _INT64
    for validator in field.validators:
        limit = getattr(validator, "limit_value", None)
        if type(validator) is MinValueValidator and type(limit) is int:
            minimum = max(minimum, limit)
        elif type(validator) is MaxValueValidator and type(limit) is int:
            maximum = min(maximum, limit)
        else:
            return range(0)
    return range(minimum, maximum + 1)


#: The methods that a field overrides if its column stores something else than its values.
_CONVERSIONS = ("get_prep_value", "get_db_prep_value", "get_db_prep_save", "from_db_value")


def _is_djangos(field: models.Field[Any, Any], name: str) -> bool:
    method = getattr(type(field), name, None)
    return method is None or method.__module__.startswith("django.")


def _decimal(decimal_places: int) -> Encoding:
    def scale(value: Any) -> int:
        shifted = _EXACT.scaleb(Decimal(value), decimal_places)
        if shifted != int(shifted):
            message = f"{value} has more than {decimal_places} decimal places"
            raise ValueError(message)
        return int(shifted)

    def scale_delta(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Decimal | int):
            message = f"a Decimal or an integer can be added, not {value!r}"
            raise TypeError(message)
        return scale(value)

    def unscale(value: int) -> Decimal:
        return _EXACT.scaleb(Decimal(value), -decimal_places)

    return Encoding(
        f"n{decimal_places}",
        lambda value: b"%d" % scale(value),
        lambda encoded: unscale(int(encoded)),
        scale_delta,
        unscale,
        _EXACT.add,
        is_integer=True,
    )


def _json(field: models.JSONField[Any, Any]) -> Encoding:
    def encode(value: Any) -> bytes:
        text = json.dumps(value, cls=field.encoder, allow_nan=False, ensure_ascii=False)
        if _JSON_NUL.search(text):
            message = "Postgres' jsonb holds no NUL character"
            raise ValueError(message)
        return text.encode()

    def decode(encoded: bytes) -> Any:
        return json.loads(encoded, cls=field.decoder)

    def adapt(encoded: bytes) -> Any:
        from psycopg.types.json import Jsonb  # needed only where Postgres is

        # Passed on as text: the model's decoder is for the model's users, not for Postgres
        text = encoded.decode()  # now, and not when psycopg needs it, because it may be damaged
        return Jsonb(None, dumps=lambda _: text)

    return Encoding("j", encode, decode, adapt=adapt)


def _microseconds(value: Any) -> int:
    if not isinstance(value, timedelta):
        message = f"a timedelta can be added, not {value!r}"
        raise TypeError(message)
    return value // _MICROSECOND


def _since_epoch(value: datetime) -> int:
    start = datetime(1970, 1, 1, tzinfo=UTC if settings.USE_TZ else None)  # as the database returns it
    return (value - start) // _MICROSECOND


def _from_epoch(micro: int) -> datetime:
    start = datetime(1970, 1, 1, tzinfo=UTC if settings.USE_TZ else None)  # as the database returns it
    return start + micro * _MICROSECOND


def _after(value: datetime, elapsed: timedelta) -> datetime:
    """Return the time when a duration has elapsed; Python alone would add it to what a clock shows."""
    if settings.USE_TZ:
        return value.astimezone(UTC) + elapsed
    zone = timezone.get_default_timezone()
    return (value.replace(tzinfo=zone).astimezone(UTC) + elapsed).astimezone(zone).replace(tzinfo=None)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        message = f"an integer can be added, not {value!r}"
        raise TypeError(message)
    return value


def _since_midnight(value: time) -> int:
    if value.tzinfo is not None:
        message = f"a time without a time zone can be stored, not {value!r}"
        raise ValueError(message)
    since_midnight = timedelta(
        hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond
    )
    return since_midnight // _MICROSECOND


def _from_midnight(micro: int) -> time:
    return (datetime(1970, 1, 1) + micro * _MICROSECOND).time()


_INTEGER = Encoding("i", lambda value: b"%d" % value, int, _whole, int, is_integer=True)


def _text(value: str) -> bytes:
    if "\0" in value:
        message = "Postgres' text holds no NUL character"
        raise ValueError(message)
    return value.encode()


def _binary(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):  # bytes(5) would be five NUL bytes
        message = f"bytes can be stored, not {value!r}"
        raise TypeError(message)
    return bytes(value)


_FLOAT = Encoding("f", lambda value: repr(float(value)).encode(), float)
_TEXT = Encoding("s", _text, bytes.decode)
_ENCODINGS: dict[type[models.Field[Any, Any]], Encoding] = {
    models.IntegerField: _INTEGER,
    models.DateTimeField: Encoding(
        "ts",
        lambda value: b"%d" % _since_epoch(value),
        lambda encoded: _from_epoch(int(encoded)),
        _microseconds,
        lambda micro: micro * _MICROSECOND,
        _after,
        is_integer=True,
    ),
    models.DateField: Encoding(
        "d",
        lambda value: b"%d" % value.toordinal(),
        lambda encoded: date.fromordinal(int(encoded)),
        is_integer=True,
    ),
    models.TimeField: Encoding(
        "t",
        lambda value: b"%d" % _since_midnight(value),
        lambda encoded: _from_midnight(int(encoded)),
        is_integer=True,
    ),
    models.DurationField: Encoding(
        "dur",
        lambda value: b"%d" % _microseconds(value),
        lambda encoded: int(encoded) * _MICROSECOND,
        _microseconds,
        lambda micro: micro * _MICROSECOND,
        is_integer=True,
    ),
    models.BooleanField: Encoding(
        "b", lambda value: b"1" if value else b"0", lambda encoded: encoded == b"1"
    ),
    models.FloatField: _FLOAT,
    models.UUIDField: Encoding("u", lambda value: value.hex.encode(), lambda encoded: UUID(encoded.decode())),
    models.BinaryField: Encoding("x", _binary, bytes),
    models.CharField: _TEXT,
    models.TextField: _TEXT,
    models.GenericIPAddressField: _TEXT,
}
_BY_CODE = {encoding.code: encoding for encoding in _ENCODINGS.values()}
