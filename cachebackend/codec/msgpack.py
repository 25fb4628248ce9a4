"""MessagePack with extensions for the types of Django's rows.

A value that comes back is equal to the one that was packed and has the same types, nested values
included. A value that MessagePack and these extensions cannot hold exactly (subclasses, enums,
dataclasses, dicts whose keys are not str) raises EncodeError, and the codec ``auto`` then pickles it.
One exception: a bytearray or memoryview comes back as the bytes that it is equal to.

ormsgpack uses the stack of C for nested lists and dicts, at most 1024 levels, which need half a
megabyte. A tuple or set is a payload of its own inside a payload, and each one could hold another 1024
levels. So ``loads`` never reads a long one inside of another: it reads the outer payload, then the
payloads of its long tuples and sets, and then the outer one again, with these in their places.

Source: https://github.com/msgpack/msgpack/blob/master/spec.md, section "Extension types".
"""

from __future__ import annotations

import struct
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import partial
from typing import Any, NoReturn
from uuid import UUID
from zoneinfo import ZoneInfo

import ormsgpack

from cachebackend.errors import InterruptLostError
from cachebackend.interrupts import raise_interrupt

__all__ = ["EncodeError", "dumps", "has_own_types", "loads"]

EncodeError = ormsgpack.MsgpackEncodeError

_OPTIONS = (
    ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
#: How ormsgpack's errors begin if ``_extend`` or ``_restore`` has raised an exception, which it drops.
_NOT_EXTENDED, _NOT_RESTORED = "Type is not msgpack serializable", "ext_hook failed"
#: For each thread, the exception that ``_extend`` or ``_restore`` has raised.
_raised = threading.local()
_unpack, _TIMES = ormsgpack.unpackb, ormsgpack.OPT_DATETIME_AS_TIMESTAMP_EXT
_TIMEDELTA = struct.Struct(">iii")
#: The most bytes of a tuple's or set's payload that is read inside of another: no more levels fit into it.
_SHORT_BYTES = 512
#: The most long tuples and sets inside of each other. Each level holds a copy of what is inside of it.
_MAX_DEPTH = 16
#: How often each byte of a set may be compared with those of members of the same hash: in a set without
#: design, 16 integers within 64 bits have one hash at most.
_COMPARISONS = 16
#: How many bytes may be compared besides: 34 floats are powers of two that have one hash.
_COMPARED_BYTES = 20_000
#: Types whose hashes nobody can choose: Python adds a secret to them.
_SECRET_HASHES = frozenset({str, bytes})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Timestamps: the byte for "an extension of 8 bytes" (or the two for "of 12"), the type -1, and the time.
_TIMESTAMP_64, _TIMESTAMP_96 = struct.Struct(">BBQ"), struct.Struct(">BBBIq")


class _LongError(ValueError):
    """A tuple or set is too long to be read inside of another payload."""


def dumps(value: object) -> bytes:
    """Return the payload of a value.

    Raises:
        EncodeError: The value contains something that would not come back as it is.
    """
    return _dumps(0, value)


def has_own_types(value: object) -> bool:
    """Return whether a value contains nothing that needs an extension, or that MessagePack does not have.

    These are None, bool, str without lone surrogates, bytes, float, int within 64 bits, lists, and dicts
    whose keys are str; no subclasses.
    """
    try:
        ormsgpack.packb(value, None, _OPTIONS)
    except EncodeError as error:
        raise_interrupt(error)
        return False
    return True


def _dumps(depth: int, value: object) -> bytes:
    """Return the payload of a value that ``depth`` tuples and sets contain."""
    try:
        return ormsgpack.packb(value, _EXTEND[depth], _OPTIONS)
    except EncodeError as error:
        raise_interrupt(error)
        _pass_interrupt(error, _NOT_EXTENDED, partial(_dumps, depth), value)
        raise


def _extend(depth: int, value: object) -> ormsgpack.Ext | ormsgpack.Fragment:
    """Pack a value that ormsgpack does not know; a TypeError says that there is no extension for it."""
    try:
        kind = type(value)
        tag = _TAGS.get(kind)
        if tag is not None:
            if depth == _MAX_DEPTH:
                message = f"more than {_MAX_DEPTH} tuples and sets are inside of each other"
                raise TypeError(message)
            payload = _dumps(depth + 1, list(value))  # type: ignore[call-overload]  # a tuple or set
            if kind is not tuple and (fault := _fault_of_hashes(value, len(payload))):  # type: ignore[arg-type]  # it is a set
                raise TypeError(fault)
            return ormsgpack.Ext(tag, payload)
        pack = _PACKERS.get(kind)
        if pack is None:
            message = f"{kind.__name__} has no extension"
            raise TypeError(message)
        return pack(value)
    except BaseException as error:
        _raised.error = error
        raise


#: ``_extend`` for each number of tuples and sets that contain a value.
_EXTEND = [partial(_extend, depth) for depth in range(_MAX_DEPTH + 1)]


def loads(payload: bytes, depth: int = 0) -> Any:
    """Return the value of a payload; bytes that ``dumps`` did not make may raise any exception.

    Args:
        payload: The payload.
        depth: How many long tuples and sets contain it.
    """
    try:
        return _unpack(payload, ext_hook=_restore, option=_TIMES)
    except ValueError as error:
        raise_interrupt(error)
        if type(_pass_interrupt(error, _NOT_RESTORED, loads, payload)) is not _LongError:
            raise
    if depth == _MAX_DEPTH:
        message = f"more than {_MAX_DEPTH} long tuples and sets are inside of each other"
        raise ValueError(message)
    long: list[tuple[int, bytes]] = []
    _unpack_outer(payload, long.append)
    values = iter([_collection(tag, loads(inner, depth + 1), len(inner)) for tag, inner in long])
    return _unpack_outer(payload, lambda _: next(values))


def _collection(tag: int, members: Sequence[Any], size: int) -> Any:
    """Return a tuple or set with these members, whose payload has ``size`` bytes."""
    if _COLLECTIONS[tag] is not tuple and (fault := _fault_of_hashes(members, size)):
        raise ValueError(fault)
    return _COLLECTIONS[tag](members)


def _fault_of_hashes(members: Collection[Any], size: int) -> str | None:
    """Return why a set with these members is refused, if it is: too many of them have one hash.

    Python compares a new member of a set with all members of the same hash. The hash of a number, of a
    Decimal and of a UUID is a remainder, so another program can choose any number of them with one hash, and
    tuples that differ only at their ends.

    Args:
        members: The members.
        size: The bytes of their payload.
    """
    if len(members) <= _COMPARISONS or _SECRET_HASHES.issuperset(map(type, members)):
        return None
    counts = Counter(map(hash, members))
    if max(counts.values()) <= _COMPARISONS:
        return None
    compared = sum(
        count * len(dumps(member)) for member in members if (count := counts[hash(member)]) > _COMPARISONS
    )
    if compared <= _COMPARISONS * size + _COMPARED_BYTES:
        return None
    return "too many members of a set have one hash"


def _unpack_outer(payload: bytes, replace: Callable[[tuple[int, bytes]], Any]) -> Any:
    """Return the value of a payload, with the results of ``replace`` for its long tuples and sets."""

    def restore(tag: int, inner: bytes) -> Any:
        is_long = len(inner) > _SHORT_BYTES and tag in _COLLECTIONS
        return replace((tag, inner)) if is_long else _restore(tag, inner)

    try:
        return _unpack(payload, ext_hook=restore, option=_TIMES)
    except ValueError as error:
        _pass_interrupt(error, _NOT_RESTORED, loads, payload)
        raise


def _restore(tag: int, payload: bytes) -> Any:
    try:
        if tag == 7:  # the type that models' rows have most often, so it is checked first
            return Decimal(payload.decode())
        return _RESTORERS[tag](payload)
    except BaseException as error:
        _raised.error = error
        raise


def _refuse_long() -> NoReturn:
    raise _LongError


def _pass_interrupt(
    error: Exception, message: str, call: Callable[[Any], object], argument: Any
) -> Exception | None:
    """Return the error of ``_extend`` or ``_restore``, which ormsgpack drops; raise that of a signal handler.

    Both functions record what they raise. Before its first instruction a function can record nothing;
    whether it was interrupted there is seen by making the same call again. If that fails too, it records why.

    Args:
        error: The error that ormsgpack has raised.
        message: How its text begins if one of the functions has raised.
        call: The function that called ormsgpack.
        argument: Its argument.

    Raises:
        InterruptLostError: A signal handler has raised, and its exception is lost.
    """
    if not str(error).startswith(message):
        return None
    cause: BaseException | None = _raised.__dict__.pop("error", None)
    if cause is None and not getattr(_raised, "is_repeated", False):
        _raised.is_repeated = True
        try:
            call(argument)
        except (EncodeError, ValueError) as repeated:
            raise_interrupt(repeated)
            if not _raised.__dict__.pop("has_cause", False):
                return None
        finally:
            _raised.is_repeated = False
        raise InterruptLostError
    if getattr(_raised, "is_repeated", False):
        _raised.has_cause = cause is not None
    if cause is None or type(cause) is _LongError:
        return cause
    if not isinstance(cause, Exception):
        raise cause
    raise_interrupt(cause)
    return cause


def _state(value: datetime | time) -> bytes:
    """Return the fields, ``fold`` included, in the form that pickle passes to the constructor."""
    reduced: Any = value.__reduce_ex__(4)
    state: bytes = reduced[1][0]
    return state


def _pack_datetime(value: datetime) -> ormsgpack.Ext | ormsgpack.Fragment:
    zone = value.tzinfo
    if zone is UTC and not value.fold:
        return _pack_timestamp(value)
    if zone is None:
        return ormsgpack.Ext(1, _state(value))
    return ormsgpack.Ext(3, _state(value) + _pack_zone(zone))


def _pack_timestamp(value: datetime) -> ormsgpack.Fragment:
    """Return a timestamp of MessagePack itself, which ormsgpack unpacks without calling Python code.

    Source: the specification, section "Timestamp extension type": nanoseconds in 30 bits and
    seconds in 34, or 32 and 64 bits for years before 1970 and after 2514.
    """
    since = value - _EPOCH
    seconds, nanoseconds = since.days * 86_400 + since.seconds, since.microseconds * 1000
    if 0 <= seconds < 2**34:
        return ormsgpack.Fragment(_TIMESTAMP_64.pack(0xD7, 0xFF, nanoseconds << 34 | seconds))
    return ormsgpack.Fragment(_TIMESTAMP_96.pack(0xC7, 12, 0xFF, nanoseconds, seconds))


def _pack_time(value: time) -> ormsgpack.Ext:
    zone = value.tzinfo
    return ormsgpack.Ext(5, _state(value) + (_pack_zone(zone) if zone is not None else b""))


def _pack_zone(zone: tzinfo) -> bytes:
    """Return a time zone by its name or offset, if it comes back equal and of the same type."""
    if type(zone) is ZoneInfo and zone.key:
        return b"z" + zone.key.encode()
    if type(zone) is timezone and len(zone.__getinitargs__()) == 1:  # type: ignore[attr-defined]  # it has no name
        offset = zone.utcoffset(None)
        return b"o" + _TIMEDELTA.pack(offset.days, offset.seconds, offset.microseconds)
    message = f"the zone {zone!r} has no extension"
    raise TypeError(message)


def _restore_zone(payload: bytes) -> tzinfo:
    if payload[:1] == b"z":
        return ZoneInfo(payload[1:].decode())
    return timezone(_restore_timedelta(payload[1:]))


def _restore_timedelta(payload: bytes) -> timedelta:
    return timedelta(*_TIMEDELTA.unpack(payload))


def _restore_time(payload: bytes) -> time:
    zone = payload[6:]
    restored = time(payload[:6], _restore_zone(zone)) if zone else time(payload)  # type: ignore[arg-type]
    return restored.replace()


def _big(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


#: The numbers of the extensions are part of stored records: never change or reuse one.
_COLLECTIONS: dict[int, Callable[[Iterable[Any]], Any]] = {9: tuple, 10: set, 11: frozenset}
_TAGS = {kind: tag for tag, kind in _COLLECTIONS.items()}
_PACKERS: dict[type, Callable[[Any], ormsgpack.Ext | ormsgpack.Fragment]] = {
    datetime: _pack_datetime,
    date: lambda v: ormsgpack.Ext(4, v.toordinal().to_bytes(4, "big")),
    time: _pack_time,
    timedelta: lambda v: ormsgpack.Ext(6, _TIMEDELTA.pack(v.days, v.seconds, v.microseconds)),
    Decimal: lambda v: ormsgpack.Ext(7, str(v).encode()),
    UUID: lambda v: ormsgpack.Ext(8, v.bytes),
    int: lambda v: ormsgpack.Ext(12, _big(v)),
}
# The constructors of datetime and time accept the state that pickle passes to them. They check hardly any
# of it; replace() makes the object again, from fields that it checks.
_RESTORERS: dict[int, Callable[[bytes], Any]] = {
    1: lambda p: datetime(p).replace(),  # type: ignore[arg-type, call-arg]
    3: lambda p: datetime(p[:10], _restore_zone(p[10:])).replace(),  # type: ignore[arg-type, call-arg]
    4: lambda p: date.fromordinal(int.from_bytes(p, "big")),
    5: _restore_time,
    6: _restore_timedelta,
    8: lambda p: UUID(bytes=p),
    9: lambda p: tuple(loads(p)) if len(p) <= _SHORT_BYTES else _refuse_long(),
    10: lambda p: set(loads(p)) if len(p) <= _SHORT_BYTES else _refuse_long(),
    11: lambda p: frozenset(loads(p)) if len(p) <= _SHORT_BYTES else _refuse_long(),
    12: lambda p: int.from_bytes(p, "big", signed=True),
}
