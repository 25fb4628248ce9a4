r"""The layout of a record: everything the cache knows about a key, in one string.

======  ==========  ======================================================
byte 0  record      the rest
======  ==========  ======================================================
-, 0-9  integer     decimal digits, so that INCRBY works; within 64 bits
V       value       codec, flags, blocks that the flags name, payload
S       stale       as a value; invalidated, served by who allows it
L       lease       16-byte token: its holder alone may fill
Q       quarantine  16-byte tokens of the writers in flight
======  ==========  ======================================================

After the first byte of a value:

========  ==========================  ==================================
bytes     field                       present
========  ==========================  ==================================
1         codec: one of ``CodecId``   always
1         flags: ``Flag`` bits        always
40        refresh block: fresh_until  ``Flag.REFRESH``
          f64, delta f64, refresh
          token 16 bytes, refresh
          deadline f64; big endian
2 + ...   length u16, tag block       ``Flag.TAGS``
rest      payload, as the codec and   always
          the compressor left it
========  ==========================  ==================================

Times are seconds since 1970. A reader that meets a codec or flag that it does not know
takes the record for a miss, so an older process beside a newer one is safe.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from cachebackend.clock import TOKEN_BYTES
from cachebackend.errors import RecordError

__all__ = ["CodecId", "Flag", "Kind", "kind_of", "lease_record", "lease_token", "value_record"]


class Kind(IntEnum):
    """What a record is, by its first byte; a digit or a minus sign is INTEGER."""

    INTEGER = 0
    VALUE = ord("V")
    STALE = ord("S")
    LEASE = ord("L")
    QUARANTINE = ord("Q")


class CodecId(IntEnum):
    """Which codec wrote a payload."""

    MSGPACK_EXTENDED = ord("m")
    PICKLE = ord("p")
    SIGNED_PICKLE = ord("s")
    JSON = ord("j")
    MSGPACK = ord("k")


class Flag(IntFlag):
    """Which blocks stand before the payload, and which compressor it went through."""

    REFRESH = 0x01
    TAGS = 0x02
    ZLIB = 0x10
    LZ4 = 0x20
    ZSTD = 0x40


#: Bytes before the payload of a value without blocks.
HEADER_BYTES = 3
_DIGITS = frozenset(b"-0123456789")
_KINDS: dict[int, Kind] = {**dict.fromkeys(_DIGITS, Kind.INTEGER), **{k.value: k for k in Kind if k}}


def kind_of(record: bytes) -> Kind:
    """Return what a record is.

    Raises:
        RecordError: It is none of ours.
    """
    try:
        return _KINDS[record[0]]
    except (IndexError, KeyError):
        message = f"a record cannot begin with {record[:1]!r}"
        raise RecordError(message) from None


def value_record(codec: CodecId, payload: bytes) -> bytes:
    """Return the record of a value without blocks."""
    return b"V%c\0%b" % (codec, payload)


def lease_record(token: bytes) -> bytes:
    """Return the record of a lease held by the token."""
    return b"L" + token


def lease_token(record: bytes) -> bytes:
    """Return the token that holds a lease.

    Raises:
        RecordError: The lease has another length.
    """
    token = record[1:]
    if len(token) != TOKEN_BYTES:
        message = f"a lease holds {TOKEN_BYTES} bytes, not {len(token)}"
        raise RecordError(message)
    return token
