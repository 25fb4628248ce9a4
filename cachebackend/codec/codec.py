"""Values to records by the codec that the settings name; records to values by what they say.

==================  ========================================================================
codec               writes
==================  ========================================================================
``auto``            MessagePack with our extensions, or pickle 5 where that cannot hold it
``msgpack``         MessagePack with our extensions; refuses the rest
``json``            JSON; refuses what would not come back as it is
``pickle``          pickle 5
``signed-pickle``   MessagePack as ``auto``, or pickle 5 signed with the project's secret
==================  ========================================================================

A reader understands them all, so a fleet may change its codec under way, but for this: only
``auto`` and ``pickle`` load a pickle that nobody signed, and ``msgpack`` and ``json`` load
none at all. What is refused is a miss.
"""

from __future__ import annotations

import hmac
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cachebackend.codec import msgpack
from cachebackend.codec.compression import Compressor, decompress
from cachebackend.codec.record import (
    CodecId,
    Kind,
    Refresh,
    Stored,
    kind_of,
    plain_header,
    stored_of,
    value_record,
)
from cachebackend.errors import CodecError, RecordError

__all__ = ["CODECS", "Codec"]

#: What INCRBY can hold.
_INTEGERS = range(-(2**63), 2**63)
_PICKLE_PROTOCOL = 5
#: The codecs that ``OPTIONS["codec"]`` may name.
CODECS = ("auto", "pickle", "signed-pickle", "json", "msgpack")
#: Bytes of a signature: HMAC-SHA256.
_SIGNATURE_BYTES = 32
#: So that the secret signs nothing here that it signs elsewhere.
_PURPOSE = b"cachebackend.codec.signed-pickle"

Payload = tuple[CodecId, bytes]


class Codec:
    """Encodes by one codec, and decodes what it trusts.

    Args:
        name: One of ``CODECS``.
        compressor: ``none``, ``zlib``, ``lz4`` or ``zstd``.
        over_bytes: Payloads that are longer are compressed.
        secrets: Returns the secrets that signatures are checked with; the first one signs.

    Raises:
        CodecError: The compressor's package is not installed.
    """

    __slots__ = ("_compressor", "_loads", "_over_bytes", "_payload", "_secrets", "name", "plain")

    def __init__(
        self,
        name: str,
        compressor: str = "none",
        over_bytes: int = 1024,
        secrets: Callable[[], Sequence[bytes]] = tuple,
    ) -> None:
        self.name = name
        self._over_bytes = over_bytes
        self._secrets = secrets
        self._compressor = None if compressor == "none" else Compressor(compressor)
        self._payload: Callable[[object], Payload] = {
            "auto": lambda value: _extended_or(_pickle, value),
            "pickle": _pickle,
            "signed-pickle": lambda value: _extended_or(self._signed_pickle, value),
            "json": _json,
            "msgpack": _msgpack,
        }[name]
        self._loads: dict[int, Callable[[bytes], Any]] = {
            CodecId.MSGPACK_EXTENDED: msgpack.loads,
            CodecId.JSON: json.loads,
        }
        if name in {"auto", "pickle"}:
            self._loads[CodecId.PICKLE] = pickle.loads  # the settings chose to trust what the nodes hold
        if name in {"auto", "pickle", "signed-pickle"}:
            self._loads[CodecId.SIGNED_PICKLE] = self._load_signed

        #: By how records begin whose value is all that they hold: what loads the rest. Most are such.
        self.plain = {plain_header(codec): loads for codec, loads in self._loads.items()}

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
            CodecError: The codec cannot hold the value.
            pickle.PickleError: The value refuses to be pickled. Pickle raises TypeError or
                AttributeError for some values; they pass through as they are.
        """
        if not refresh and not tags and type(value) is int and value in _INTEGERS:
            return b"%d" % value
        codec, payload = self._payload(value)
        if self._compressor is None or len(payload) <= self._over_bytes:
            if refresh is None and not tags:
                return plain_header(codec) + payload
            return value_record(codec, payload, refresh, tags)
        shorter = self._compressor.compress(payload)
        if len(shorter) >= len(payload):
            return value_record(codec, payload, refresh, tags)
        return value_record(codec, shorter, refresh, tags, self._compressor.flag)

    def decode(self, record: bytes) -> Any:
        """Return the value that a record holds, whether or not it is still fresh.

        Raises:
            RecordError: It holds none, or bytes that this codec does not read.
        """
        kind = kind_of(record)
        if kind is Kind.VALUE or kind is Kind.STALE:
            return self.decode_stored(stored_of(record))
        if kind is Kind.INTEGER:
            if not record.removeprefix(b"-").isdigit():  # int() takes blanks and underscores too
                message = f"{record[:20]!r} is no integer"
                raise RecordError(message)
            return _loaded(int, record)
        message = f"a {kind.name.lower()} record holds no value"
        raise RecordError(message)

    def decode_stored(self, stored: Stored) -> Any:
        """Return the value of a record that was taken apart.

        Raises:
            RecordError: This codec does not read it.
        """
        loads = self._loads.get(stored.codec)
        if loads is None:
            message = f"a value was written by codec {stored.codec:#04x}, which {self.name!r} does not read"
            raise RecordError(message)
        payload = decompress(stored.compressor, stored.payload) if stored.compressor else stored.payload
        return _loaded(loads, payload)

    def _signed_pickle(self, value: object) -> Payload:
        _, pickled = _pickle(value)
        return CodecId.SIGNED_PICKLE, _signature(self._secrets()[0], pickled) + pickled

    def _load_signed(self, payload: bytes) -> Any:
        signature, pickled = payload[:_SIGNATURE_BYTES], payload[_SIGNATURE_BYTES:]
        if not any(hmac.compare_digest(signature, _signature(each, pickled)) for each in self._secrets()):
            message = "a pickle bears no signature of this project"
            raise RecordError(message)
        return pickle.loads(pickled)  # noqa: S301  # this project wrote it


def _signature(secret: bytes, pickled: bytes) -> bytes:
    return hmac.digest(_PURPOSE + secret, pickled, "sha256")


def _extended_or(rest: Callable[[object], Payload], value: object) -> Payload:
    try:
        return CodecId.MSGPACK_EXTENDED, msgpack.dumps(value)
    except msgpack.EncodeError:
        return rest(value)


def _pickle(value: object) -> Payload:
    return CodecId.PICKLE, pickle.dumps(value, _PICKLE_PROTOCOL)


def _msgpack(value: object) -> Payload:
    try:
        return CodecId.MSGPACK_EXTENDED, msgpack.dumps(value)
    except msgpack.EncodeError as error:
        message = f"codec 'msgpack' cannot hold a {type(value).__name__} as this one: {error}"
        raise CodecError(message) from error


def _json(value: object) -> Payload:
    _refuse_unless_json(value)
    try:
        return CodecId.JSON, json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:
        message = f"codec 'json' cannot hold this {type(value).__name__}: {error}"
        raise CodecError(message) from error


def _refuse_unless_json(value: object) -> None:
    """Refuse what JSON would make something else of: tuples, other keys than str, subclasses."""
    kind = type(value)
    if kind is list:
        for item in value:  # type: ignore[attr-defined]  # it is a list
            _refuse_unless_json(item)
    elif kind is dict:
        for key, item in value.items():  # type: ignore[attr-defined]  # it is a dict
            if type(key) is not str:
                message = f"codec 'json' cannot hold a dict with the key {key!r}: keys are str there"
                raise CodecError(message)
            _refuse_unless_json(item)
    elif kind not in {str, int, float, bool, type(None)}:
        message = (
            f"codec 'json' cannot hold a {kind.__name__}; "
            "'msgpack' holds dates, decimals, UUIDs, tuples and sets"
        )
        raise CodecError(message)


def _loaded(loads: Callable[[bytes], Any], payload: bytes) -> Any:
    try:
        return loads(payload)
    except RecordError:
        raise
    except Exception as error:  # a payload is foreign bytes: unpickling may raise anything at all
        message = f"a payload of {len(payload)} bytes cannot be read: {type(error).__name__}"
        raise RecordError(message) from error
