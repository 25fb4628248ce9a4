"""The codecs: how each turns values into payloads, and whose payloads it reads.

To add a codec, add a line to ``CODECS``, and its payloads' byte to ``CodecId``; settings, docs and
messages read that table.
"""

from __future__ import annotations

import hmac
import json
import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from cachebackend.codec import msgpack
from cachebackend.codec.record import CodecId
from cachebackend.errors import CodecError, RecordError
from cachebackend.interrupts import raise_interrupt

__all__ = ["CODECS", "LOADERS", "CodecType", "Payload", "Secrets", "load_signed", "sign_again"]

#: Which codec wrote the bytes, and the bytes.
Payload: TypeAlias = tuple[CodecId, bytes]
#: Turns a value into the payload of a key's record. Only the signature of a pickle depends on the key.
Dumps: TypeAlias = Callable[[object, bytes], Payload]
Loads: TypeAlias = Callable[[bytes], Any]
#: Returns the secrets that signatures are checked with; the first one signs.
Secrets: TypeAlias = Callable[[], Sequence[bytes]]

_PICKLE_PROTOCOL = 5
#: Bytes of a signature: HMAC-SHA256.
_SIGNATURE_BYTES = 32
#: Goes before the secret, so that a signature made here is valid nowhere else, and the reverse.
_PURPOSE = b"cachebackend.codec.signed-pickle-of-key"
_LENGTH = struct.Struct(">Q")


class CodecType(NamedTuple):
    """How one codec writes, and what it reads.

    Attributes:
        writer: Returns the function that turns a value into a payload.
        reads: The codecs whose payloads it reads.
    """

    writer: Callable[[Secrets], Dumps]
    reads: frozenset[CodecId]


#: For each codec but that of signed pickles, the function that turns its payloads into values.
LOADERS: Mapping[CodecId, Loads] = {
    CodecId.MSGPACK_EXTENDED: msgpack.loads,
    CodecId.JSON: json.loads,
    CodecId.PICKLE: pickle.loads,  # read only where the settings choose to trust the nodes
}


def _msgpack_or(fallback: Dumps) -> Dumps:
    """Return a function that writes MessagePack, and calls ``fallback`` for values it cannot hold."""

    def dumps(value: object, key: bytes) -> Payload:
        try:
            return CodecId.MSGPACK_EXTENDED, msgpack.dumps(value)
        except msgpack.EncodeError as error:
            raise_interrupt(error)
            return fallback(value, key)

    return dumps


def _pickle(value: object, _: bytes) -> Payload:
    return CodecId.PICKLE, pickle.dumps(value, _PICKLE_PROTOCOL)


def _signed_pickle(secrets: Secrets) -> Dumps:
    def dumps(value: object, key: bytes) -> Payload:
        return CodecId.SIGNED_PICKLE, _sign(secrets(), pickle.dumps(value, _PICKLE_PROTOCOL), key)

    return dumps


def load_signed(secrets: Sequence[bytes], payload: bytes, key: bytes) -> Any:
    """Return the value of a signed pickle.

    Raises:
        RecordError: No process of this project has signed it for this key.
    """
    return pickle.loads(_verified(secrets, payload, key))  # noqa: S301  # this project wrote it


def sign_again(secrets: Sequence[bytes], payload: bytes, key: bytes, target: bytes) -> bytes:
    """Return the payload of a signed pickle of ``key`` for the key ``target``.

    Raises:
        RecordError: No process of this project has signed it for ``key``.
    """
    return _sign(secrets, _verified(secrets, payload, key), target)


def _sign(secrets: Sequence[bytes], pickled: bytes, key: bytes) -> bytes:
    return _signature(secrets[0], pickled, key) + pickled


def _verified(secrets: Sequence[bytes], payload: bytes, key: bytes) -> bytes:
    signature, pickled = payload[:_SIGNATURE_BYTES], payload[_SIGNATURE_BYTES:]
    if not any(hmac.compare_digest(signature, _signature(secret, pickled, key)) for secret in secrets):
        message = "a pickle has no valid signature of this project for its key"
        raise RecordError(message)
    return pickled


def _signature(secret: bytes, pickled: bytes, key: bytes) -> bytes:
    return hmac.digest(_PURPOSE + secret, _LENGTH.pack(len(key)) + key + pickled, "sha256")


def _msgpack(value: object, _: bytes) -> Payload:
    try:
        return CodecId.MSGPACK_EXTENDED, msgpack.dumps(value)
    except msgpack.EncodeError as error:
        raise_interrupt(error)
        message = f"codec 'msgpack' cannot hold this {type(value).__name__}: {error}"
        raise CodecError(message) from error


#: Made once: ``json.dumps`` would make one for each call.
_encode_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def _json(value: object, _: bytes) -> Payload:
    if not msgpack.has_own_types(value):  # this takes a tenth of the time of the exact check
        _refuse_unless_json(value)
    try:
        return CodecId.JSON, _encode_json(value).encode()
    except TypeError:  # bytes, which MessagePack has
        _refuse_unless_json(value)
        raise
    except ValueError as error:
        raise_interrupt(error)
        message = f"codec 'json' cannot hold this {type(value).__name__}: {error}"
        raise CodecError(message) from error


def _refuse_unless_json(value: object) -> None:
    """Refuse values that JSON would change: tuples, keys that are not str, subclasses."""
    kind = type(value)
    if kind is list:
        for item in value:  # type: ignore[attr-defined]  # it is a list
            _refuse_unless_json(item)
    elif kind is dict:
        for key, item in value.items():  # type: ignore[attr-defined]  # it is a dict
            if type(key) is not str:
                message = f"codec 'json' cannot hold a dict with the key {key!r}: JSON keys are str"
                raise CodecError(message)
            _refuse_unless_json(item)
    elif kind not in {str, int, float, bool, type(None)}:
        message = (
            f"codec 'json' cannot hold a {kind.__name__}; "
            "codec 'msgpack' holds dates, decimals, UUIDs, tuples and sets"
        )
        raise CodecError(message)


_UNPICKLED = frozenset({CodecId.MSGPACK_EXTENDED, CodecId.JSON})
_SIGNED = _UNPICKLED | {CodecId.SIGNED_PICKLE}
_ALL = _SIGNED | {CodecId.PICKLE}

#: The codecs that ``OPTIONS["codec"]`` may name.
CODECS: Mapping[str, CodecType] = {
    "auto": CodecType(lambda _: _msgpack_or(_pickle), _ALL),
    "pickle": CodecType(lambda _: _pickle, _ALL),
    "signed-pickle": CodecType(lambda secrets: _msgpack_or(_signed_pickle(secrets)), _SIGNED),
    "json": CodecType(lambda _: _json, _UNPICKLED),
    "msgpack": CodecType(lambda _: _msgpack, _UNPICKLED),
}
