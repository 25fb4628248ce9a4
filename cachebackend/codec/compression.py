"""Compression of payloads: zlib comes with Python, lz4 and zstd with the extra ``compression``."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

from cachebackend.codec.record import Flag
from cachebackend.errors import CodecError, RecordError

__all__ = ["COMPRESSORS", "Compressor", "decompress"]

_Bytes: TypeAlias = Callable[[bytes], bytes]
#: A Redis string is not longer, so no payload that was compressed here was longer either.
MAX_BYTES = 512 * 1024 * 1024


class CompressorType(NamedTuple):
    """One way to compress.

    Attributes:
        flag: The flag that its records have.
        compressor: Returns the function that compresses; raises CodecError if a package is missing.
        decompress: Returns a payload as it was before.
    """

    flag: Flag
    compressor: Callable[[], _Bytes]
    decompress: _Bytes


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


def decompress(flag: int, payload: bytes) -> bytes:
    """Return a payload as it was before it was compressed.

    Raises:
        RecordError: It was not compressed in this way, or the compressor is not installed here.
    """
    plain_of = _DECOMPRESSORS.get(flag)
    if plain_of is None:
        message = f"a value was compressed in a way, {flag:#04x}, that this version does not know"
        raise RecordError(message)
    try:
        return plain_of(payload)
    except RecordError:
        raise
    except Exception as error:  # another program may have written it; each compressor has its own errors
        message = f"a payload of {len(payload)} bytes cannot be decompressed: {type(error).__name__}"
        raise RecordError(message) from error


def _zlib() -> _Bytes:
    return lambda payload: zlib.compress(payload, 1)


def _lz4() -> _Bytes:
    compress: _Bytes = _module("lz4.frame", "lz4").compress
    return compress


def _zstd() -> _Bytes:
    zstandard = _module("zstandard", "zstd")
    # A new compressor for each call, because threads cannot share one
    return lambda payload: zstandard.ZstdCompressor(level=3).compress(payload)


def _from_zstd(payload: bytes) -> bytes:
    decompressor = _module("zstandard", "zstd").ZstdDecompressor()
    plain: bytes = decompressor.decompress(payload, max_output_size=MAX_BYTES)
    return plain


def _whole(decompressor: Any, payload: bytes) -> bytes:
    """Return all of a payload, decompressed."""
    plain: bytes = decompressor.decompress(payload, MAX_BYTES)
    if not decompressor.eof:
        message = f"a compressed payload is incomplete, or longer than {MAX_BYTES:,} bytes"
        raise RecordError(message)
    return plain


def _module(path: str, name: str) -> Any:
    try:
        return import_module(path)
    except ImportError as error:
        message = f"compressor {name!r} is not installed: pip install 'django-ringcache[compression]'"
        raise CodecError(message) from error


#: The compressors that ``OPTIONS["compressor"]`` may name.
COMPRESSORS: Mapping[str, CompressorType] = {
    "zlib": CompressorType(Flag.ZLIB, _zlib, lambda payload: _whole(zlib.decompressobj(), payload)),
    "lz4": CompressorType(
        Flag.LZ4, _lz4, lambda payload: _whole(_module("lz4.frame", "lz4").LZ4FrameDecompressor(), payload)
    ),
    "zstd": CompressorType(Flag.ZSTD, _zstd, _from_zstd),
}
_DECOMPRESSORS: dict[int, _Bytes] = {each.flag: each.decompress for each in COMPRESSORS.values()}
