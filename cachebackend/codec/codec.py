"""Values to records by the codec that the settings name; records to values by what they say."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from cachebackend.codec import msgpack
from cachebackend.codec.record import HEADER_BYTES, CodecId, Kind, kind_of, value_record
from cachebackend.errors import RecordError

__all__ = ["CODECS", "Codec", "decode"]

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

    def encode(self, value: object) -> bytes:
        """Return the record of a value; an integer (not a bool) within 64 bits is written bare.

        Raises:
            pickle.PickleError: The value refuses to be pickled. Pickle raises TypeError or
                AttributeError for some values; they pass through as they are.
        """
        if type(value) is int and value in _INTEGERS:
            return b"%d" % value
        return value_record(*self._payload(value))


def decode(record: bytes) -> Any:
    """Return the value that a value or integer record holds.

    Raises:
        RecordError: It holds none, or bytes that no codec can read.
    """
    kind = kind_of(record)
    try:
        if kind is Kind.VALUE:
            if record[2]:
                message = f"a value has flags {record[2]:#04x} that this version does not know"
                raise RecordError(message)
            return _LOADS[record[1]](record[HEADER_BYTES:])
        if kind is Kind.INTEGER:
            return int(record)
    except RecordError:
        raise
    except Exception as error:  # a payload is foreign bytes: unpickling may raise anything at all
        message = f"a record of {len(record)} bytes cannot be read: {type(error).__name__}"
        raise RecordError(message) from error
    message = f"a {kind.name.lower()} record holds no value"
    raise RecordError(message)
