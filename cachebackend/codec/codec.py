"""Values to records, by the codec that the settings name; records to values, by what the record says.

==================  ========================================================================
codec               writes
==================  ========================================================================
``auto``            MessagePack with our extensions; pickle 5 for values it cannot hold
``msgpack``         MessagePack with our extensions; refuses values it cannot hold
``json``            JSON; refuses values that would not come back as they are
``pickle``          pickle 5
``signed-pickle``   as ``auto``, and signs each pickle and its key with the project's secret
==================  ========================================================================

A reader understands the payloads of every codec, not only those of its own, so the processes of a site may
change their codec one after the other. Pickles are the exception: only ``auto`` and ``pickle`` load a
pickle without a signature, and ``msgpack`` and ``json`` load none at all. A record that the reader's
codec does not read is a miss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from cachebackend.codec.compression import Compressor, decompress
from cachebackend.codec.payload import CODECS, LOADERS, Secrets, load_signed, sign_again
from cachebackend.codec.record import (
    CodecId,
    Kind,
    Refresh,
    Stored,
    kind_of,
    loaded_header,
    plain_header,
    stored_of,
    tagged_header,
    value_record,
)
from cachebackend.errors import CodecError, RecordError, ValueTooLongError
from cachebackend.interrupts import raise_interrupt

__all__ = ["MAX_BYTES", "Codec"]

#: The most bytes of a payload: a Redis string is not longer, and holds at most 65 KB beside it.
MAX_BYTES = 512 * 1024**2 - 131_072
#: The integers that INCRBY can hold.
_INTEGERS = range(-(2**63), 2**63)


class Codec:
    """Encodes values by one codec, and decodes the records that this codec trusts.

    Args:
        name: A key of ``CODECS``.
        compressor: ``"none"``, or a key of ``COMPRESSORS``.
        over_bytes: Payloads longer than this are compressed.
        secrets: Returns the secrets that signatures are checked with; the first one signs.
        max_bytes: The most bytes of a payload that is not compressed; longer ones are neither written
            nor decompressed.

    Attributes:
        plain: The records that hold nothing except a payload are the most frequent ones. For each
            header of such a record, the function that turns the rest of it into a value. A signed
            pickle is not among them, because its signature is that of its key.
        loaded: The same for the records that hold a refresh block besides.
        tagged: The same for those that hold a refresh block and a tag block.

    Raises:
        CodecError: The compressor's package is not installed.
    """

    __slots__ = (
        "_compressor", "_dumps", "_loads", "_max_bytes", "_over_bytes", "_secrets", "loaded", "name", "plain",
        "tagged",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        compressor: str = "none",
        over_bytes: int = 1024,
        secrets: Secrets = tuple,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.name = name
        self._max_bytes = max_bytes
        self._over_bytes = over_bytes
        self._compressor = None if compressor == "none" else Compressor(compressor)
        self._dumps = CODECS[name].writer(secrets)
        self._loads: dict[int, Callable[[bytes], Any]] = {
            codec: loads for codec, loads in LOADERS.items() if codec in CODECS[name].reads
        }
        self._secrets = secrets if CodecId.SIGNED_PICKLE in CODECS[name].reads else None
        self.plain = {plain_header(codec): loads for codec, loads in self._loads.items()}
        self.loaded = {loaded_header(codec): loads for codec, loads in self._loads.items()}
        self.tagged = {tagged_header(codec): loads for codec, loads in self._loads.items()}

    def encode(
        self,
        value: object,
        key: bytes,
        refresh: Refresh | None = None,
        tags: Mapping[bytes, bytes] | None = None,
    ) -> bytes:
        """Return the record of a value; an integer (not a bool) within 64 bits is written bare.

        Args:
            value: The value.
            key: The key under which it is stored.
            refresh: When it should be loaded again, if a loader made it; an integer is then
                not written bare.
            tags: The key of each of its tags, and the token that the tag had before the load.

        Raises:
            CodecError: The codec cannot hold the value, or the value is nested too deeply.
            ValueTooLongError: Its payload is longer than ``max_bytes``.
            pickle.PickleError: The value refuses to be pickled. Pickle raises TypeError or
                AttributeError for some values; they pass through as they are.
        """
        if not refresh and not tags and type(value) is int and value in _INTEGERS:
            return b"%d" % value
        try:
            codec, payload = self._dumps(value, key)
        except RecursionError as error:
            message = f"a {type(value).__name__} is nested too deeply, or contains itself"
            raise CodecError(message) from error
        if len(payload) > self._max_bytes:
            allowed = f"{self._max_bytes:,} (OPTIONS['max_value_bytes'])"
            message = f"a value of {len(payload):,} bytes is longer than is allowed: {allowed}"
            raise ValueTooLongError(message)
        if (self._compressor is None or len(payload) <= self._over_bytes) and refresh is None and not tags:
            return plain_header(codec) + payload
        return self._record(codec, payload, refresh, tags)

    def _record(
        self, codec: CodecId, payload: bytes, refresh: Refresh | None, tags: Mapping[bytes, bytes] | None
    ) -> bytes:
        if self._compressor is None or len(payload) <= self._over_bytes:
            return value_record(codec, payload, refresh, tags)
        shorter = self._compressor.compress(payload)
        if len(shorter) >= len(payload):
            return value_record(codec, payload, refresh, tags)
        return value_record(codec, shorter, refresh, tags, self._compressor.flag)

    def decode(self, record: bytes, key: bytes) -> Any:
        """Return the value that the record of a key holds, fresh or not.

        Raises:
            RecordError: It holds no value, or bytes that this codec does not read.
        """
        kind = kind_of(record)
        if kind is Kind.VALUE or kind is Kind.STALE:
            return self.decode_stored(stored_of(record), key)
        if kind is Kind.INTEGER:
            if not record.removeprefix(b"-").isdigit():  # int() accepts blanks and underscores too
                message = f"{record[:20]!r} is not an integer"
                raise RecordError(message)
            return _loaded(int, record)
        message = f"a {kind.name.lower()} record holds no value"
        raise RecordError(message)

    def decode_stored(self, stored: Stored, key: bytes) -> Any:
        """Return the value of a key's record that ``stored_of`` has taken apart.

        Raises:
            RecordError: This codec does not read it.
        """
        loads = self._loads.get(stored.codec)
        if loads is None and (secrets := self._secrets_of(stored)) is not None:
            loads = partial(load_signed, secrets(), key=key)
        if loads is None:
            message = f"a value was written by codec {stored.codec:#04x}, which {self.name!r} does not read"
            raise RecordError(message)
        return _loaded(loads, self._payload(stored))

    def moved(self, record: bytes, key: bytes, target: bytes) -> bytes:
        """Return the record of a value of ``key`` as it is stored under the key ``target``.

        Raises:
            RecordError: It holds a pickle that is not signed for ``key``.
        """
        if kind_of(record) is Kind.INTEGER:
            return record
        stored = stored_of(record)
        secrets = self._secrets_of(stored)
        if secrets is None:
            return record
        payload = sign_again(secrets(), self._payload(stored), key, target)
        return self._record(CodecId.SIGNED_PICKLE, payload, stored.refresh, stored.tags)

    def _secrets_of(self, stored: Stored) -> Secrets | None:
        """Return the secrets of a record's signature; None if it has none, or is not read."""
        return self._secrets if stored.codec == CodecId.SIGNED_PICKLE else None

    def _payload(self, stored: Stored) -> bytes:
        if not stored.compressor:
            return stored.payload
        return decompress(stored.compressor, stored.payload, self._max_bytes)


def _loaded(loads: Callable[[bytes], Any], payload: bytes) -> Any:
    try:
        return loads(payload)
    except RecordError:
        raise
    except Exception as error:  # another program may have written it, and unpickling may raise any error
        raise_interrupt(error)
        message = f"a payload of {len(payload)} bytes cannot be read: {type(error).__name__}"
        raise RecordError(message) from error
