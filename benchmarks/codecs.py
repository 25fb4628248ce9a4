"""Codecs and compressors, beside the bare calls of their libraries."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from benchmarks.contenders import ROW
from benchmarks.goals import Goal, Measured, measure_ratios
from benchmarks.rounds import one_core

__all__ = ["GOALS", "measure"]

KEY = b"site:1:key"
#: A row that JSON has, about 100 bytes.
JSON_ROW = {"id": 1, "title": "some title", "price": "19.99", "stock": 3, "tags": ["a", "b"], "rate": 1.5}
GOALS = (
    Goal("json, 10 KB: encode", "json.dumps", 1.4, "at_most"),
    Goal("json, 10 KB: decode", "json.loads", 1.2, "at_most"),
    Goal("zstd, 2 KB: compress", "a compressor that exists", 1.3, "at_most"),
    Goal("zstd, 2 KB: decompress", "a decompressor that exists", 2.5, "at_most"),
    Goal("lz4, 2 KB: decompress", "lz4.frame.decompress", 3.0, "at_most"),
    Goal("a loaded row: decode", "its payload alone: decode", 3.0, "at_most"),
)


def measure(*, quick: bool) -> Measured:
    """Measure on one core, without servers."""
    with one_core():
        return Measured(measure_ratios(GOALS, ways(), quick=quick))


def ways() -> dict[str, Callable[[], Any]]:
    """Return our ways, and those of the libraries."""
    import lz4.frame
    import zstandard

    from cachebackend.codec import LOADED_BYTES, Codec, Refresh, msgpack
    from cachebackend.codec.codec import MAX_BYTES
    from cachebackend.codec.compression import Compressor, decompress

    rows, text = [JSON_ROW] * 100, "".join(f"line {number} of a page\n" for number in range(100)).encode()
    codec, auto = Codec("json"), Codec("auto")
    written, dumped = codec.encode(rows, KEY), json.dumps(rows, separators=(",", ":")).encode()
    zstd, lz4_ = Compressor("zstd"), Compressor("lz4")
    packed, framed = zstd.compress(text), lz4_.compress(text)
    loaded = auto.encode(ROW, KEY, Refresh(2e9, 0.1))
    compressor, decompressor = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()
    return {
        "json, 10 KB: encode": lambda: codec.encode(rows, KEY),
        "json.dumps": lambda: json.dumps(rows, allow_nan=False, separators=(",", ":")).encode(),
        "json, 10 KB: decode": lambda: codec.decode(written, KEY),
        "json.loads": lambda: json.loads(dumped),
        "zstd, 2 KB: compress": lambda: zstd.compress(text),
        "a compressor that exists": lambda: compressor.compress(text),
        "zstd, 2 KB: decompress": lambda: decompress(zstd.flag, packed, MAX_BYTES),
        "a decompressor that exists": lambda: decompressor.decompress(packed),
        "lz4, 2 KB: decompress": lambda: decompress(lz4_.flag, framed, MAX_BYTES),
        "lz4.frame.decompress": lambda: lz4.frame.decompress(framed),
        "a loaded row: decode": lambda: auto.decode(loaded, KEY),
        "its payload alone: decode": lambda: msgpack.loads(loaded[LOADED_BYTES:]),
    }
