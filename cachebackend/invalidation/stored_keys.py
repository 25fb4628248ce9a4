"""The keys of an outbox row, as MessagePack.

A general parser would first build every value that the bytes name: a byte can be a list, which takes 70
bytes of memory. Bytes that other programs have written are therefore read only as long as they have the
form of stored keys: a map of texts to lists of bytes.

Source: https://github.com/msgpack/msgpack/blob/master/spec.md, section "Formats".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import ormsgpack

from cachebackend.backend.keys import content_of_change_key, special_keys
from cachebackend.invalidation.watched import KeysByAlias

__all__ = ["MAX_CHANGE_BYTES", "MAX_KEYS", "MAX_KEY_BYTES", "pack_keys", "unpack_keys"]

#: The most keys that are read of a row.
MAX_KEYS = 100_000
#: The most bytes of a key: more than any key of a cache that is used sensibly, and no effort for a node.
MAX_KEY_BYTES = 65_536
#: The most bytes of a change, which no node gets: it holds the digests of many rows.
MAX_CHANGE_BYTES = 524_288

#: The name under which a row holds changes, and the byte that it is packed as; every alias is a text.
_CHANGES = 0
#: For a kind of value: the first byte whose low bits are the length, the number of such bytes, and the
#: number of bytes that hold the length after each other first byte.
_Kind: TypeAlias = tuple[int, int, Mapping[int, int]]
_MAP: _Kind = (0x80, 16, {0xDE: 2, 0xDF: 4})
_LIST: _Kind = (0x90, 16, {0xDC: 2, 0xDD: 4})
_TEXT: _Kind = (0xA0, 32, {0xD9: 1, 0xDA: 2, 0xDB: 4})
#: The first byte of at most 255 bytes.
_SHORT_BYTES = 0xC4
_BYTES: _Kind = (0, 0, {_SHORT_BYTES: 1, 0xC5: 2, 0xC6: 4})


def pack_keys(keys: Mapping[str, Iterable[bytes]]) -> bytes:
    """Return keys by alias as a row holds them.

    Changes that results of queries depend on (``query_changes``) are apart, where an earlier release refuses
    them: it would delete them as keys, and then the row. So it deletes everything, and sets the row aside.
    """
    plain: dict[str | int, Any] = {}
    changes: dict[str, list[bytes]] = {}
    for alias, group in keys.items():
        keys_of_alias = set(group)
        special = special_keys(keys_of_alias)
        found = [key for key in special if content_of_change_key(key) is not None]
        plain[alias] = list(keys_of_alias.difference(found))
        if found:
            changes[alias] = found
    return ormsgpack.packb(
        plain | {_CHANGES: changes} if changes else plain, option=ormsgpack.OPT_NON_STR_KEYS
    )


def unpack_keys(packed: bytes) -> KeysByAlias:
    """Return the keys that ``pack_keys`` packed.

    Raises:
        ValueError: The bytes have another form, or hold more or longer keys than are read.
        IndexError: The bytes end too early.
    """
    keys: KeysByAlias = {}
    count, at = _length(packed, 0, _MAP)
    total, most = 0, MAX_KEY_BYTES
    while count:
        count -= 1
        if packed[at] == _CHANGES:
            more, at = _length(packed, at + 1, _MAP)
            count, most = count + more, MAX_CHANGE_BYTES
            continue
        length, at = _length(packed, at, _TEXT)
        alias, at = packed[at : at + length].decode(), at + length
        number, at = _length(packed, at, _LIST)
        total = _checked(total + number, MAX_KEYS, "keys")
        at = _read_keys(packed, at, number, most, keys.setdefault(alias, set()))
    if at != len(packed):
        message = f"the keys end at byte {at:,} of {len(packed):,}"
        raise ValueError(message)
    return keys


def _read_keys(packed: bytes, at: int, count: int, most: int, keys: set[bytes]) -> int:
    """Add the keys that follow a place, of at most `most` bytes each; return the place behind them."""
    for _ in range(count):
        if packed[at] == _SHORT_BYTES:  # as nearly every key; a call of a function takes longer
            length, at = packed[at + 1], at + 2
        else:
            length, at = _length(packed, at, _BYTES)
            _checked(length, most, "bytes in a key")
        keys.add(packed[at : at + length])
        at += length
    return at


def _length(packed: bytes, at: int, kind: _Kind) -> tuple[int, int]:
    """Return the length of the value that begins at a place, and the place of its content."""
    first, count, widths = kind
    byte = packed[at]
    if first <= byte < first + count:
        return byte - first, at + 1
    width = widths.get(byte)
    if width is None:
        message = f"byte {at:,} is not as the keys of a row have it"
        raise ValueError(message)
    return int.from_bytes(packed[at + 1 : at + 1 + width], "big"), at + 1 + width


def _checked(count: int, most: int, name: str) -> int:
    if count > most:
        message = f"the row has {count:,} {name}, more than {most:,}"
        raise ValueError(message)
    return count
