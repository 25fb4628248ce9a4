"""Compressed payloads."""

from __future__ import annotations

import pytest

from cachebackend.codec.compression import COMPRESSORS, Compressor, decompress
from cachebackend.errors import RecordError

PAYLOAD = b"payload " * 200


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_payload_comes_back(name: str) -> None:
    """Shorter on the way; the flag of the record names the compressor."""
    compressor = Compressor(name)
    packed = compressor.compress(PAYLOAD)
    assert len(packed) < len(PAYLOAD) / 4
    assert decompress(compressor.flag, packed) == PAYLOAD


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("damage", [lambda packed: packed[:-3], lambda _: b"", lambda _: b"\x00\xff" * 9])
def test_a_damaged_payload_is_an_error(name: str, damage: object) -> None:
    """Cut short, empty, or of something else: never another value."""
    compressor = Compressor(name)
    with pytest.raises(RecordError):
        decompress(compressor.flag, damage(compressor.compress(PAYLOAD)))  # type: ignore[operator]


def test_an_unknown_flag_is_an_error() -> None:
    """A newer release wrote it."""
    with pytest.raises(RecordError, match="0x80"):
        decompress(0x80, b"x")
