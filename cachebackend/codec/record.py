r"""The layout of a record: the bytes of one key, which hold everything that the cache knows about it.

======  ==========  ======================================================
byte 0  record      the rest
======  ==========  ======================================================
-, 0-9  integer     decimal digits, so that INCRBY works; within 64 bits
V       value       codec, flags, the blocks of the flags, payload
S       stale       as V; invalidated, and served only where stale values are allowed
L       lease       16-byte token: only its holder may fill; none: there is nothing to fill
Q       quarantine  16-byte tokens of the writers in flight
T       tag         16-byte token; a value that was stored under another token is a miss
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
rest      payload: the value as the   always
          codec wrote it, compressed
          or not
========  ==========================  ==================================

Times are seconds since 1970. A record with a codec or flag that the reader does not know is a miss, so
processes of an older and a newer version may run at the same time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from enum import IntEnum, IntFlag
from typing import NamedTuple

from cachebackend.clock import TOKEN_BYTES
from cachebackend.errors import RecordError
from cachebackend.interrupts import raise_interrupt

__all__ = [
    "HEADER_BYTES",
    "HEAD_BYTES",
    "LOADED_BYTES",
    "RELEASED",
    "TAGS_BYTES",
    "CodecId",
    "Flag",
    "Kind",
    "Refresh",
    "Stored",
    "claimed",
    "fresh_until_of",
    "has_tags",
    "is_plain",
    "kind_of",
    "lease_record",
    "lease_token",
    "loaded_header",
    "plain_header",
    "stored_of",
    "tag_block_of",
    "tag_block_span",
    "tag_bytes_of",
    "tag_record",
    "tagged_header",
    "tags_of_block",
    "times_of",
    "value_record",
]


class Kind(IntEnum):
    """The kind of a record, by its first byte; a digit or a minus sign is INTEGER."""

    INTEGER = 0
    VALUE = ord("V")
    STALE = ord("S")
    LEASE = ord("L")
    QUARANTINE = ord("Q")
    TAG = ord("T")


class CodecId(IntEnum):
    """The codec that wrote a payload."""

    MSGPACK_EXTENDED = ord("m")
    PICKLE = ord("p")
    SIGNED_PICKLE = ord("s")
    JSON = ord("j")
    MSGPACK = ord("k")


class Flag(IntFlag):
    """The blocks before the payload, and the compressor of the payload."""

    REFRESH = 0x01
    TAGS = 0x02
    ZLIB = 0x10
    LZ4 = 0x20
    ZSTD = 0x40


#: Bytes before the payload of a value without blocks.
HEADER_BYTES = 3
#: The refresh block: fresh_until, delta, token, deadline.
_REFRESH = struct.Struct(">dd16sd")
_LENGTH = struct.Struct(">H")
#: The most bytes of a tag block after its length.
TAGS_BYTES = 2 ** (8 * _LENGTH.size) - 1
#: The first bytes of a record that hold its refresh block and the length of its tag block.
HEAD_BYTES = HEADER_BYTES + _REFRESH.size + _LENGTH.size
#: Its times, without the token.
_TIMES = struct.Struct(">dd16xd")
#: Bytes before the payload of a value that has a refresh block and no tags.
LOADED_BYTES = HEADER_BYTES + _REFRESH.size
#: The part of the refresh block that a claim changes: token, deadline.
_CLAIM = struct.Struct(">16sd")
_CLAIM_OFFSET = _REFRESH.size - _CLAIM.size
#: The record of a lease that was released because its holder has nothing to fill. It holds no token: nobody
#: can fill over it, and each reader that meets it loads without a lease.
RELEASED = b"L"
#: Plain integers, because the operators of an enumeration cost more than the rest of a hit.
_VALUE_BYTE, _REFRESH_BIT, _TAGS_BIT = ord("V"), int(Flag.REFRESH), int(Flag.TAGS)
_COMPRESSED = int(Flag.ZLIB | Flag.LZ4 | Flag.ZSTD)
_UNKNOWN_FLAGS = 0xFF & ~(_REFRESH_BIT | _TAGS_BIT | _COMPRESSED)
_PLAIN_MASK = 0xFF & ~_COMPRESSED
_DIGITS = frozenset(b"-0123456789")
_KINDS: dict[int, Kind] = {**dict.fromkeys(_DIGITS, Kind.INTEGER), **{k.value: k for k in Kind if k}}


def kind_of(record: bytes) -> Kind:
    """Return the kind of a record.

    Raises:
        RecordError: The bytes are not a record.
    """
    try:
        return _KINDS[record[0]]
    except (IndexError, KeyError) as error:
        raise_interrupt(error)
        message = f"a record cannot begin with {record[:1]!r}"
        raise RecordError(message) from None


class Refresh(NamedTuple):
    """The refresh block: when a loaded value should be loaded again, and the caller that does so.

    Attributes:
        fresh_until: When the value's timeout ends; after that it is stale. Seconds since 1970.
        delta: How long its load took, in seconds.
        token: The token of the caller that is loading it again; zeros: no caller is.
        deadline: Until when this caller may fill; seconds since 1970.
    """

    fresh_until: float
    delta: float
    token: bytes = bytes(TOKEN_BYTES)
    deadline: float = 0.0


class Stored(NamedTuple):
    """The parts of a value's record; the tag block and the payload are not decoded yet."""

    codec: int
    refresh: Refresh | None
    tag_block: bytes
    payload: bytes
    compressor: int = 0

    @property
    def tags(self) -> dict[bytes, bytes]:
        """The key of each tag, and the token that the tag had when the load began."""
        return tags_of_block(self.tag_block)


def value_record(
    codec: CodecId,
    payload: bytes,
    refresh: Refresh | None = None,
    tags: Mapping[bytes, bytes] | None = None,
    compressor: int = 0,
) -> bytes:
    """Return the record of a value, with the blocks that it needs.

    Args:
        codec: The codec that wrote the payload.
        payload: The encoded value.
        refresh: When the value should be loaded again; None: no loader made it.
        tags: The key of each of its tags, and the token that the tag had before the load.
        compressor: The flag of the payload's compressor; 0: it is not compressed.
    """
    flags = (_REFRESH_BIT if refresh else 0) | (_TAGS_BIT if tags else 0) | compressor
    blocks = _REFRESH.pack(*refresh) if refresh else b""
    if tags:
        block = b"".join([_LENGTH.pack(len(key)) + key + token for key, token in tags.items()])
        blocks += _LENGTH.pack(len(block)) + block
    return b"V%c%c%b%b" % (codec, flags, blocks, payload)


def stored_of(record: bytes) -> Stored:
    """Return the parts of a value's record, stale or not.

    Raises:
        RecordError: The record is incomplete, or has flags that this version does not know.
    """
    try:
        flags = record[2]
        if not flags:
            return Stored(record[1], None, b"", record[HEADER_BYTES:])
        if flags & _UNKNOWN_FLAGS:
            message = f"a value has flags {flags:#04x} that this version does not know"
            raise RecordError(message)
        offset, refresh, tag_block = HEADER_BYTES, None, b""
        if flags & _REFRESH_BIT:
            refresh = Refresh(*_REFRESH.unpack_from(record, offset))
            offset += _REFRESH.size
        if flags & _TAGS_BIT:
            end = offset + _LENGTH.size + _LENGTH.unpack_from(record, offset)[0]
            if end > len(record):
                raise _incomplete(record)
            tag_block, offset = record[offset:end], end
        return Stored(record[1], refresh, tag_block, record[offset:], flags & _COMPRESSED)
    except (IndexError, struct.error) as error:
        raise_interrupt(error)
        raise _incomplete(record) from None


def _incomplete(record: bytes) -> RecordError:
    return RecordError(f"a value's record of {len(record)} bytes is incomplete")


def fresh_until_of(head: bytes) -> float:
    """Return the ``fresh_until`` in the first bytes of a record; infinite without a refresh block."""
    if len(head) < HEAD_BYTES - _LENGTH.size or head[0] != _VALUE_BYTE or not head[2] & _REFRESH_BIT:
        return math.inf
    fresh_until: float = _REFRESH.unpack_from(head, HEADER_BYTES)[0]
    return fresh_until


def tag_block_span(head: bytes) -> tuple[int, int]:
    """Return begin and end of the tag block, from the first bytes of a record that has one."""
    begin = HEADER_BYTES + (_REFRESH.size if head[2] & _REFRESH_BIT else 0)
    length = head[begin : begin + _LENGTH.size].ljust(_LENGTH.size, b"\0")
    return begin, begin + _LENGTH.size + _LENGTH.unpack(length)[0]


def tag_block_of(record: bytes) -> bytes:
    """Return the tag block of a record that has one; it is incomplete if the record is."""
    begin, end = tag_block_span(record)
    return record[begin:end]


def tags_of_block(block: bytes) -> dict[bytes, bytes]:
    """Return key and token of each tag in a tag block; nothing if it is incomplete."""
    tags: dict[bytes, bytes] = {}
    offset = _LENGTH.size
    try:
        while offset < len(block):
            begin = offset + _LENGTH.size
            end = begin + _LENGTH.unpack_from(block, offset)[0]
            offset = end + TOKEN_BYTES
            tags[block[begin:end]] = block[end:offset]
    except struct.error:
        return {}
    return tags if offset == len(block) else {}


def tag_bytes_of(tags: Iterable[bytes]) -> int:
    """Return how many bytes the tags with these keys take in a record; at most ``TAGS_BYTES`` fit."""
    return sum(_LENGTH.size + len(key) + TOKEN_BYTES for key in tags)


def is_plain(record: bytes) -> bool:
    """Return whether a record is a value without a refresh block or tag block; it may be compressed."""
    return len(record) > HEADER_BYTES and record[0] == _VALUE_BYTE and not record[2] & _PLAIN_MASK


def plain_header(codec: int) -> bytes:
    """Return the header of a codec's records that hold nothing except an uncompressed payload."""
    return b"V%c\0" % codec


def loaded_header(codec: int) -> bytes:
    """Return the header of a codec's records that hold a refresh block and an uncompressed payload."""
    return b"V%c%c" % (codec, _REFRESH_BIT)


def tagged_header(codec: int) -> bytes:
    """Return the header of a codec's records that hold both blocks and an uncompressed payload."""
    return b"V%c%c" % (codec, _REFRESH_BIT | _TAGS_BIT)


def times_of(record: bytes) -> tuple[float, float, float]:
    """Return ``fresh_until``, ``delta`` and ``deadline`` of a record that has a refresh block.

    Raises:
        struct.error: The record is incomplete.
    """
    return _TIMES.unpack_from(record, HEADER_BYTES)


def has_tags(record: bytes) -> bool:
    """Return whether a record carries tag tokens that must be checked."""
    return len(record) > HEADER_BYTES and record[0] == _VALUE_BYTE and bool(record[2] & _TAGS_BIT)


def claimed(record: bytes, token: bytes, deadline: float) -> bytes:
    """Return a record that a caller has claimed, to load its value again.

    Args:
        record: A record with a refresh block.
        token: The token of the caller.
        deadline: Until when this caller may fill; seconds since 1970.
    """
    offset = HEADER_BYTES + _CLAIM_OFFSET
    return record[:offset] + _CLAIM.pack(token, deadline) + record[offset + _CLAIM.size :]


def lease_record(token: bytes) -> bytes:
    """Return the record of a lease with this token."""
    return b"L" + token


def tag_record(token: bytes) -> bytes:
    """Return the record of a tag with this token."""
    return b"T" + token


def lease_token(record: bytes) -> bytes:
    """Return the token of a lease's record.

    Raises:
        RecordError: The record has another length.
    """
    token = record[1:]
    if len(token) != TOKEN_BYTES:
        message = f"the token of a lease has {TOKEN_BYTES} bytes, got {len(token)}"
        raise RecordError(message)
    return token
