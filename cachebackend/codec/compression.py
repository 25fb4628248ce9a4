"""Payloads made shorter: zlib comes with Python, lz4 and zstd with the extra ``compression``."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

from cachebackend.codec.record import Flag
from cachebackend.errors import CodecError, RecordError

__all__ = ["COMPRESSORS", "Compressor", "decompress"]

#: The compressors that ``OPTIONS["compressor"]`` may name, and the flags of their records.
COMPRESSORS = {"zlib": Flag.ZLIB, "lz4": Flag.LZ4, "zstd": Flag.ZSTD}
#: No string of a node is longer, so nothing that was compressed here was.
MOST_BYTES = 512 * 1024 * 1024


class Compressor:
    """Compresses with one compressor.

    Args:
        name: One of ``COMPRESSORS``.

    Raises:
        CodecError: Its package is not installed.
    """

    __slots__ = ("compress", "flag")

    def __init__(self, name: str) -> None:
        self.flag = COMPRESSORS[name]
        self.compress: Callable[[bytes], bytes]
        if name == "zlib":
            self.compress = lambda payload: zlib.compress(payload, 1)
        elif name == "lz4":
            self.compress = _module("lz4.frame", name).compress
        else:
            zstandard = _module("zstandard", name)
            # Made for each call: one cannot be shared by threads
            self.compress = lambda payload: zstandard.ZstdCompressor(level=3).compress(payload)


def decompress(flag: int, payload: bytes) -> bytes:
    """Return a payload as it was before it was compressed.

    Raises:
        RecordError: It was not, or its compressor is not installed here.
    """
    try:
        if flag == Flag.ZLIB:
            return _whole(zlib.decompressobj(), payload)
        if flag == Flag.LZ4:
            return _whole(_module("lz4.frame", "lz4").LZ4FrameDecompressor(), payload)
        if flag == Flag.ZSTD:
            plain: bytes = (
                _module("zstandard", "zstd")
                .ZstdDecompressor()
                .decompress(payload, max_output_size=MOST_BYTES)
            )
            return plain
    except RecordError:
        raise
    except Exception as error:  # the payload is foreign bytes, and each compressor has errors of its own
        message = f"a payload of {len(payload)} bytes cannot be decompressed: {type(error).__name__}"
        raise RecordError(message) from error
    message = f"a value was compressed in a way, {flag:#04x}, that this version does not know"
    raise RecordError(message)


def _whole(decompressor: Any, payload: bytes) -> bytes:
    plain: bytes = decompressor.decompress(payload, MOST_BYTES)
    if not decompressor.eof:
        message = "a compressed payload is cut short, or too long"
        raise RecordError(message)
    return plain


def _module(path: str, name: str) -> Any:
    try:
        return import_module(path)
    except ImportError as error:
        message = f"compressor {name!r} is not installed: pip install 'django-ringcache[compression]'"
        raise CodecError(message) from error
