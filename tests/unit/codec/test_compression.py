"""Compressed payloads."""

from __future__ import annotations

import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import lz4.frame
import pytest
import zstandard

from cachebackend.codec.compression import COMPRESSORS, Compressor, decompress
from cachebackend.codec.record import Flag
from cachebackend.errors import RecordError

PAYLOAD = b"payload " * 200


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_payload_comes_back(name: str) -> None:
    """Shorter on the way; the flag of the record names the compressor."""
    compressor = Compressor(name)
    packed = compressor.compress(PAYLOAD)
    assert len(packed) < len(PAYLOAD) / 4
    assert decompress(compressor.flag, packed, len(PAYLOAD)) == PAYLOAD


@pytest.mark.parametrize("name", COMPRESSORS)
def test_threads_compress_at_the_same_time(name: str) -> None:
    """Each has an object of its own: some libraries crash if two threads use one."""
    compressor, together = Compressor(name), Barrier(4)

    def come_back(number: int) -> bool:
        payload = bytes([number]) * 50_000
        together.wait()
        return all(
            decompress(compressor.flag, compressor.compress(payload), len(payload)) == payload
            for _ in range(50)
        )

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(come_back, range(4)))


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("damage", [lambda packed: packed[:-3], lambda _: b"", lambda _: b"\x00\xff" * 9])
def test_a_damaged_payload_is_an_error(name: str, damage: object) -> None:
    """Cut short, empty, or of something else: never another value."""
    compressor = Compressor(name)
    with pytest.raises(RecordError):
        decompress(compressor.flag, damage(compressor.compress(PAYLOAD)), 10_000)  # type: ignore[operator]


def test_an_unknown_flag_is_an_error() -> None:
    """A newer release wrote it."""
    with pytest.raises(RecordError, match="0x80"):
        decompress(0x80, b"x", 10_000)


#: Payloads of ten million zeros, with and without the length in front.
BOMBS = {
    "zlib": (Flag.ZLIB, zlib.compress(bytes(10**7))),
    "lz4": (Flag.LZ4, lz4.frame.compress(bytes(10**7))),
    "lz4 without a length": (Flag.LZ4, lz4.frame.compress(bytes(10**7), store_size=False)),
    "zstd": (Flag.ZSTD, zstandard.ZstdCompressor().compress(bytes(10**7))),
    "zstd without a length": (
        Flag.ZSTD,
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(10**7)),
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_payload_that_grows_too_long_is_an_error(name: str) -> None:
    """The memory for it is never taken, even if the payload says how long it is."""
    flag, bomb = BOMBS[name]
    tracemalloc.start()
    try:
        with pytest.raises(RecordError):
            decompress(flag, bomb, 200_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
    assert len(decompress(flag, bomb, 10**7)) == 10**7
    with pytest.raises(RecordError):
        decompress(flag, bomb, 10**7 - 1)
