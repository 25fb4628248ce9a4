r"""The layout of a record: everything the cache knows about a key, in one string.

======  ==========  ======================================================
byte 0  record      the rest
======  ==========  ======================================================
-, 0-9  integer     decimal digits, so that INCRBY works; within 64 bits
V       value       codec, flags, blocks that the flags name, payload
S       stale       as a value; invalidated, served by who allows it
L       lease       16-byte token: its holder alone may fill
Q       quarantine  16-byte tokens of the writers in flight
T       tag         16-byte token; values recorded under another are misses
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
2 + ...   tag block: its length u16,  ``Flag.TAGS``
          then for each tag its
          key's length u16, key, and
          the 16-byte token that it
          had when the load began
rest      payload, as the codec and   always
          the compressor left it
========  ==========================  ==================================

Times are seconds since 1970. A reader that meets a codec or flag that it does not know
takes the record for a miss, so an older process beside a newer one is safe.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum, IntFlag
from typing import NamedTuple

from cachebackend.clock import TOKEN_BYTES
from cachebackend.errors import RecordError

__all__ = [
    "HEADER_BYTES",
    "CodecId",
    "Flag",
    "Kind",
    "Refresh",
    "Stored",
    "claimed",
    "has_tags",
    "is_plain",
    "kind_of",
    "lease_record",
    "lease_token",
    "plain_header",
    "stored_of",
    "tag_record",
    "value_record",
]


class Kind(IntEnum):
    """What a record is, by its first byte; a digit or a minus sign is INTEGER."""

    INTEGER = 0
    VALUE = ord("V")
    STALE = ord("S")
    LEASE = ord("L")
    QUARANTINE = ord("Q")
    TAG = ord("T")


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
#: fresh_until, delta, token, deadline
_REFRESH = struct.Struct(">dd16sd")
_LENGTH = struct.Struct(">H")
_CLAIM = struct.Struct(">16sd")
_CLAIM_OFFSET = _REFRESH.size - _CLAIM.size
_COMPRESSED = Flag.ZLIB | Flag.LZ4 | Flag.ZSTD
_KNOWN_FLAGS = Flag.REFRESH | Flag.TAGS | _COMPRESSED
#: The same as plain integers: an enumeration's own operators cost more than all the rest of a hit.
_VALUE_BYTE, _REFRESH_BIT, _TAGS_BIT = ord("V"), int(Flag.REFRESH), int(Flag.TAGS)
_PLAIN_MASK = 0xFF & ~int(_COMPRESSED)
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


class Refresh(NamedTuple):
    """When a loaded value should be loaded again, and who is at it.

    Attributes:
        fresh_until: Until when it may be served to anyone; seconds since 1970.
        delta: What its load took, in seconds.
        token: Of who is loading it again; zeros for nobody.
        deadline: Until when that one has; seconds since 1970.
    """

    fresh_until: float
    delta: float
    token: bytes = bytes(TOKEN_BYTES)
    deadline: float = 0.0


class Stored(NamedTuple):
    """A value's record, taken apart; the payload is not decoded yet."""

    codec: int
    refresh: Refresh | None
    tags: Mapping[bytes, bytes]
    payload: bytes
    compressor: int = 0


def value_record(
    codec: CodecId,
    payload: bytes,
    refresh: Refresh | None = None,
    tags: Mapping[bytes, bytes] | None = None,
    compressor: int = 0,
) -> bytes:
    """Return the record of a value, with the blocks that it needs.

    Args:
        codec: What wrote the payload.
        payload: The value.
        refresh: When it should be loaded again.
        tags: The key of each of its tags, and the token that it was loaded under.
        compressor: The flag of what compressed the payload; 0: nothing did.
    """
    flags = (_REFRESH_BIT if refresh else 0) | (_TAGS_BIT if tags else 0) | compressor
    blocks = _REFRESH.pack(*refresh) if refresh else b""
    if tags:
        block = b"".join([_LENGTH.pack(len(key)) + key + token for key, token in tags.items()])
        blocks += _LENGTH.pack(len(block)) + block
    return b"V%c%c%b%b" % (codec, flags, blocks, payload)


def stored_of(record: bytes) -> Stored:
    """Take the record of a value, stale or not, apart.

    Raises:
        RecordError: It is none, or is cut short, or has flags that this version does not know.
    """
    try:
        flags = record[2]
        if not flags:
            return Stored(record[1], None, {}, record[HEADER_BYTES:])
        if flags & ~_KNOWN_FLAGS:
            message = f"a value has flags {flags:#04x} that this version does not know"
            raise RecordError(message)
        at, refresh, tags = HEADER_BYTES, None, {}
        if flags & _REFRESH_BIT:
            refresh = Refresh(*_REFRESH.unpack_from(record, at))
            at += _REFRESH.size
        if flags & _TAGS_BIT:
            end = at + _LENGTH.size + _LENGTH.unpack_from(record, at)[0]
            tags = dict(_tags(record, at + _LENGTH.size, end))
            at = end
        return Stored(record[1], refresh, tags, record[at:], flags & _COMPRESSED)
    except (IndexError, struct.error):
        message = f"a value of {len(record)} bytes is cut short"
        raise RecordError(message) from None


def _tags(record: bytes, at: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    while at < end:
        begin = at + _LENGTH.size
        split = begin + _LENGTH.unpack_from(record, at)[0]
        at = split + TOKEN_BYTES
        yield record[begin:split], record[split:at]


def is_plain(record: bytes) -> bool:
    """Return whether a record is of a value that nothing but its payload says anything of."""
    return len(record) > HEADER_BYTES and record[0] == _VALUE_BYTE and not record[2] & _PLAIN_MASK


def plain_header(codec: int) -> bytes:
    """Return how a codec's records begin of which the rest is the payload as it was written."""
    return b"V%c\0" % codec


def has_tags(record: bytes) -> bool:
    """Return whether a record is of a value that its tags must vouch for."""
    return len(record) > HEADER_BYTES and record[0] == _VALUE_BYTE and bool(record[2] & _TAGS_BIT)


def claimed(record: bytes, token: bytes, deadline: float) -> bytes:
    """Return a record with a refresh block, claimed for loading again by a token until a time."""
    at = HEADER_BYTES + _CLAIM_OFFSET
    return record[:at] + _CLAIM.pack(token, deadline) + record[at + _CLAIM.size :]


def lease_record(token: bytes) -> bytes:
    """Return the record of a lease held by the token."""
    return b"L" + token


def tag_record(token: bytes) -> bytes:
    """Return the record of a tag with this token."""
    return b"T" + token


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
