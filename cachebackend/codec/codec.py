"""Values to records by the codec that the settings name; records to values by what they say."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

from cachebackend.codec import msgpack
from cachebackend.codec.record import CodecId, Kind, Refresh, Stored, kind_of, stored_of, value_record
from cachebackend.errors import RecordError

__all__ = ["CODECS", "Codec", "decode", "decode_stored"]

#: What INCRBY can hold.
_INTEGERS = range(-(2**63), 2**63)
_PICKLE_PROTOCOL = 5

Payload = tuple[CodecId, bytes]


def _auto(value: object) -> Payload:
    try:
        return CodecId.MSGPACK_EXTENDED, msgpack.dumps(value)
    except msgpack.EncodeError:
        return _pickle(value)


def _pickle(value: object) -> Payload:
    return CodecId.PICKLE, pickle.dumps(value, _PICKLE_PROTOCOL)


#: The codecs that ``OPTIONS["codec"]`` may name.
CODECS: dict[str, Callable[[object], Payload]] = {"auto": _auto, "pickle": _pickle}

_LOADS: dict[int, Callable[[bytes], Any]] = {
    CodecId.MSGPACK_EXTENDED: msgpack.loads,
    CodecId.PICKLE: pickle.loads,  # the settings chose to trust what the nodes hold
}


class Codec:
    """Encodes by one named codec.

    Args:
        name: One of ``CODECS``.
    """

    __slots__ = ("_payload", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._payload = CODECS[name]

    def encode(
        self, value: object, refresh: Refresh | None = None, tags: Mapping[bytes, bytes] | None = None
    ) -> bytes:
        """Return the record of a value; an integer (not a bool) within 64 bits is written bare.

        Args:
            value: The value.
            refresh: When it should be loaded again, if a loader made it; an integer then
                is not bare.
            tags: The key of each of its tags and the token that it was loaded under.

        Raises:
            pickle.PickleError: The value refuses to be pickled. Pickle raises TypeError or
                AttributeError for some values; they pass through as they are.
        """
        if not refresh and not tags and type(value) is int and value in _INTEGERS:
            return b"%d" % value
        return value_record(*self._payload(value), refresh, tags)


def decode(record: bytes) -> Any:
    """Return the value that a record holds, whether or not it is still fresh.

    Raises:
        RecordError: It holds none, or bytes that no codec can read.
    """
    kind = kind_of(record)
    if kind is Kind.VALUE or kind is Kind.STALE:
        return decode_stored(stored_of(record))
    if kind is Kind.INTEGER:
        if not record.removeprefix(b"-").isdigit():  # int() takes blanks and underscores too
            message = f"{record[:20]!r} is no integer"
            raise RecordError(message)
        return _loaded(int, record)
    message = f"a {kind.name.lower()} record holds no value"
    raise RecordError(message)


def decode_stored(stored: Stored) -> Any:
    """Return the value of a record that was taken apart.

    Raises:
        RecordError: No codec can read it.
    """
    loads = _LOADS.get(stored.codec)
    if loads is None:
        message = f"a value was written by codec {stored.codec:#04x}, which this version does not know"
        raise RecordError(message)
    return _loaded(loads, stored.payload)


def _loaded(loads: Callable[[bytes], Any], payload: bytes) -> Any:
    try:
        return loads(payload)
    except Exception as error:  # a payload is foreign bytes: unpickling may raise anything at all
        message = f"a payload of {len(payload)} bytes cannot be read: {type(error).__name__}"
        raise RecordError(message) from error
