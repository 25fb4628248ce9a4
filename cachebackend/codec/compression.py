"""Compression of payloads: zlib comes with Python, lz4 and zstd with the extra ``compression``."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

from cachebackend.codec.record import Flag
from cachebackend.errors import CodecError, RecordError
from cachebackend.interrupts import raise_interrupt

__all__ = ["COMPRESSORS", "Compressor", "decompress"]

_Bytes: TypeAlias = Callable[[bytes], bytes]
#: Returns a payload as it was before it was compressed; raises RecordError if it is longer than a limit.
_Decompress: TypeAlias = Callable[[bytes, int], bytes]
#: The most bytes that the first step of a decompression returns of a short payload.
_FIRST_BYTES = 4_096


class CompressorType(NamedTuple):
    """One way to compress.

    Attributes:
        flag: The flag that its records have.
        compressor: Returns the function that compresses; raises CodecError if a package is missing.
        decompress: Returns a payload as it was before, if it is not longer than a limit.
    """

    flag: Flag
    compressor: Callable[[], _Bytes]
    decompress: _Decompress


class Compressor:
    """Compresses payloads.

    Args:
        name: A key of ``COMPRESSORS``.

    Raises:
        CodecError: Its package is not installed.
    """

    __slots__ = ("compress", "flag")

    def __init__(self, name: str) -> None:
        self.flag = COMPRESSORS[name].flag
        self.compress = COMPRESSORS[name].compressor()


def decompress(flag: int, payload: bytes, max_bytes: int) -> bytes:
    """Return a payload as it was before it was compressed.

    Raises:
        RecordError: It was longer than ``max_bytes``, it was not compressed in this way, or the compressor
            is not installed here.
    """
    plain_of = _DECOMPRESSORS.get(flag)
    if plain_of is None:
        message = f"a value was compressed in a way, {flag:#04x}, that this version does not know"
        raise RecordError(message)
    try:
        return plain_of(payload, max_bytes)
    except RecordError:
        raise
    except Exception as error:  # another program may have written it; each compressor has its own errors
        raise_interrupt(error)
        message = f"a payload of {len(payload)} bytes cannot be decompressed: {type(error).__name__}"
        raise RecordError(message) from error


def _zlib() -> _Bytes:
    return lambda payload: zlib.compress(payload, 1)


def _lz4() -> _Bytes:
    compress: _Bytes = _module("lz4.frame", "lz4").compress
    return compress


class _Zstandard(threading.local):
    """The compressor and the decompressor of a thread: threads cannot share one.

    To make one takes longer than to compress a short payload.
    """

    def __init__(self) -> None:
        zstandard = _module("zstandard", "zstd")
        self.compress: _Bytes = zstandard.ZstdCompressor(level=3).compress
        self.decompress: Callable[..., bytes] = zstandard.ZstdDecompressor().decompress
        self.content_size: Callable[[bytes], int] = zstandard.frame_content_size


@cache
def _zstandard() -> _Zstandard:
    return _Zstandard()


def _zstd() -> _Bytes:
    zstandard = _zstandard()
    return lambda payload: zstandard.compress(payload)  # noqa: PLW0108  # of the thread that calls


def _from_zstd(payload: bytes, max_bytes: int) -> bytes:
    zstandard = _zstandard()
    # max_output_size holds only for a payload that does not say how long it is
    if zstandard.content_size(payload) > max_bytes:
        raise _too_long(max_bytes)
    return zstandard.decompress(payload, max_output_size=max_bytes)


def _from_zlib(payload: bytes, max_bytes: int) -> bytes:
    decompressor = zlib.decompressobj()
    plain = decompressor.decompress(payload, max_bytes + 1)
    if len(plain) > max_bytes:
        raise _too_long(max_bytes)
    if not decompressor.eof:
        raise _incomplete()
    return plain


def _from_lz4(payload: bytes, max_bytes: int) -> bytes:
    """Decompress in steps, each twice as long: lz4 allocates the most bytes that a step may return."""
    lz4 = _module("lz4.frame", "lz4")
    context = lz4.create_decompression_context()
    parts: list[bytes] = []
    step, room, is_end = max(_FIRST_BYTES, 4 * len(payload)), max_bytes + 1, False
    while not is_end:
        part, read, is_end = lz4.decompress_chunk(context, payload, max_length=min(step, room))
        room -= len(part)
        if not room:
            raise _too_long(max_bytes)
        if not part and not read and not is_end:
            raise _incomplete()
        parts.append(part)
        payload, step = payload[read:], 2 * step
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_long(max_bytes: int) -> RecordError:
    return RecordError(
        f"a compressed payload is longer than {max_bytes:,} bytes (OPTIONS['max_value_bytes'])"
    )


def _incomplete() -> RecordError:
    return RecordError("a compressed payload is incomplete")


@cache
def _module(path: str, name: str) -> Any:
    try:
        return import_module(path)
    except ImportError as error:
        message = f"compressor {name!r} is not installed: pip install 'django-ringcache[compression]'"
        raise CodecError(message) from error


#: The compressors that ``OPTIONS["compressor"]`` may name.
COMPRESSORS: Mapping[str, CompressorType] = {
    "zlib": CompressorType(Flag.ZLIB, _zlib, _from_zlib),
    "lz4": CompressorType(Flag.LZ4, _lz4, _from_lz4),
    "zstd": CompressorType(Flag.ZSTD, _zstd, _from_zstd),
}
_DECOMPRESSORS: dict[int, _Decompress] = {each.flag: each.decompress for each in COMPRESSORS.values()}
