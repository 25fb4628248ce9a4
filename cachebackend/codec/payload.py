"""The codecs: how each turns values into payloads, and whose payloads it reads.

To add a codec, add a line to ``CODECS``, and its payloads' byte to ``CodecId``; settings, docs and
messages read that table.
"""

from __future__ import annotations

import hmac
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from cachebackend.codec import msgpack
from cachebackend.codec.record import CodecId
from cachebackend.errors import CodecError, RecordError

__all__ = ["CODECS", "CodecType", "Payload", "Secrets", "loaders"]

#: Which codec wrote the bytes, and the bytes.
Payload: TypeAlias = tuple[CodecId, bytes]
Dumps: TypeAlias = Callable[[object], Payload]
Loads: TypeAlias = Callable[[bytes], Any]
#: Returns the secrets that signatures are checked with; the first one signs.
Secrets: TypeAlias = Callable[[], Sequence[bytes]]

_PICKLE_PROTOCOL = 5
#: Bytes of a signature: HMAC-SHA256.
_SIGNATURE_BYTES = 32
#: Goes before the secret, so that a signature made here is valid nowhere else, and the reverse.
_PURPOSE = b"cachebackend.codec.signed-pickle"


class CodecType(NamedTuple):
    """How one codec writes, and what it reads.

    Attributes:
        writer: Returns the function that turns a value into a payload.
        reads: The codecs whose payloads it reads.
    """

    writer: Callable[[Secrets], Dumps]
    reads: frozenset[CodecId]


def loaders(secrets: Secrets) -> dict[CodecId, Loads]:
    """Return, for each codec's payloads, the function that turns them into values."""
    return {
        CodecId.MSGPACK_EXTENDED: msgpack.loads,
        CodecId.JSON: json.loads,
        CodecId.PICKLE: pickle.loads,  # read only where the settings choose to trust the nodes
        CodecId.SIGNED_PICKLE: lambda payload: _load_signed(secrets(), payload),
    }


def _msgpack_or(fallback: Dumps) -> Dumps:
    """Return a function that writes MessagePack, and calls ``fallback`` for values it cannot hold."""

    def dumps(value: object) -> Payload:
        try:
            return CodecId.MSGPACK_EXTENDED, msgpack.dumps(value)
        except msgpack.EncodeError:
            return fallback(value)

    return dumps


def _pickle(value: object) -> Payload:
    return CodecId.PICKLE, pickle.dumps(value, _PICKLE_PROTOCOL)


def _signed_pickle(secrets: Secrets) -> Dumps:
    def dumps(value: object) -> Payload:
        pickled = pickle.dumps(value, _PICKLE_PROTOCOL)
        return CodecId.SIGNED_PICKLE, _signature(secrets()[0], pickled) + pickled

    return dumps


def _load_signed(secrets: Sequence[bytes], payload: bytes) -> Any:
    signature, pickled = payload[:_SIGNATURE_BYTES], payload[_SIGNATURE_BYTES:]
    if not any(hmac.compare_digest(signature, _signature(secret, pickled)) for secret in secrets):
        message = "a pickle has no valid signature of this project"
        raise RecordError(message)
    return pickle.loads(pickled)  # noqa: S301  # this project wrote it


def _signature(secret: bytes, pickled: bytes) -> bytes:
    return hmac.digest(_PURPOSE + secret, pickled, "sha256")


def _msgpack(value: object) -> Payload:
    try:
        return CodecId.MSGPACK_EXTENDED, msgpack.dumps(value)
    except msgpack.EncodeError as error:
        message = f"codec 'msgpack' cannot hold this {type(value).__name__}: {error}"
        raise CodecError(message) from error


def _json(value: object) -> Payload:
    _refuse_unless_json(value)
    try:
        return CodecId.JSON, json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:
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
