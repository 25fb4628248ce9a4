"""Stored keys: what ``new_row`` packs is read, and nothing of another form is built in memory."""

from __future__ import annotations

import tracemalloc

import ormsgpack
import pytest

from cachebackend.backend.keys import change_key
from cachebackend.invalidation import stored_keys
from cachebackend.invalidation.stored_keys import MAX_CHANGE_BYTES, MAX_KEY_BYTES, pack_keys, unpack_keys


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"default": []},
        {"default": [b""]},
        {"default": [b"k", b"x" * 255, b"x" * 256, b"x" * MAX_KEY_BYTES]},
        {"default": [b"%d" % number for number in range(70_000)], "x" * 40: [b"k"] * 16, "ü" * 200: [b"k"]},
        {f"alias{number}": [b"k"] for number in range(20)},
        {"default": [change_key(b"c" * (MAX_CHANGE_BYTES - 1))]},
        {"default": [b"k", change_key(b"c")], "other": [change_key(b"d")], "more": [b"k"]},
    ],
)
def test_packed_keys_come_back(keys: dict[str, list[bytes]]) -> None:
    """Of every length that MessagePack writes in another format."""
    assert unpack_keys(pack_keys(keys)) == {alias: set(group) for alias, group in keys.items()}


def test_a_packed_row_that_ends_early_is_refused() -> None:
    """At every place."""
    packed = pack_keys({"default": [b"k", b"x" * 300], "other": [b"k", change_key(b"c")]})
    for end in range(len(packed)):
        with pytest.raises((ValueError, IndexError)):
            unpack_keys(packed[:end])


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        ormsgpack.packb([b"k"]),
        ormsgpack.packb({"default": b"k"}),
        ormsgpack.packb({"default": ["text"]}),
        ormsgpack.packb({"default": [b"x" * (MAX_KEY_BYTES + 1)]}),
        pack_keys({"default": [change_key(b"c" * MAX_CHANGE_BYTES)]}),
        ormsgpack.packb({5: [b"k"]}, option=ormsgpack.OPT_NON_STR_KEYS),
        ormsgpack.packb({"default": [b"k"]}) + b"\0",
        b"\x81\xa1\xff\x90",
    ],
)
def test_another_form_is_refused(packed: bytes) -> None:
    """Only a map of texts to lists of bytes is read."""
    with pytest.raises((ValueError, IndexError)):
        unpack_keys(packed)


def test_lists_in_place_of_keys_take_no_memory() -> None:
    """They are refused at the first one, however many follow."""
    packed = b"\x81\xa7default\xdd\x00\x00\xc3\x50" + b"\x90" * 50_000
    tracemalloc.start()
    with pytest.raises(ValueError, match="byte 14"):
        unpack_keys(packed)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_a_row_has_a_most_number_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all aliases together; the number is refused where it is declared."""
    monkeypatch.setattr(stored_keys, "MAX_KEYS", 3)
    assert unpack_keys(ormsgpack.packb({"a": [b"1", b"2"], "b": [b"3"]}))
    with pytest.raises(ValueError, match="4 keys"):
        unpack_keys(ormsgpack.packb({"a": [b"1", b"2"], "b": [b"3", b"4"]}))
    with pytest.raises(ValueError, match="keys"):
        unpack_keys(b"\x81\xa1a\xdd\xff\xff\xff\xff")
