"""Keys of a transaction, parted into outbox rows."""

from __future__ import annotations

import pytest

from cachebackend.invalidation import key_parts
from cachebackend.invalidation.key_parts import KeyParts
from cachebackend.invalidation.watched import KeysByAlias, add_keys


@pytest.fixture(autouse=True)
def few_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outbox row has four keys at most."""
    monkeypatch.setattr(key_parts, "MOST_KEYS", 4)


def added(*units: str) -> tuple[KeyParts, KeysByAlias]:
    """Return parts to which units of keys were added, and all keys; each letter is a key."""
    parts, keys = KeyParts(), KeysByAlias()
    for unit in units:
        new = {"default": {letter.encode() for letter in unit}}
        parts.begin_unit()
        parts.add(new)
        add_keys(keys, new)
    return parts, keys


def rows(parts: KeyParts, keys: KeysByAlias) -> list[str]:
    return [b"".join(sorted(row["default"])).decode() for row in parts.of_outbox_rows(keys)]


def test_few_keys_are_one_row() -> None:
    """The parts do not matter then."""
    assert rows(*added("abc", "d")) == ["abcd"]


def test_a_unit_is_in_one_row() -> None:
    """A part ends before the next unit if it is half full."""
    assert rows(*added("ab", "cd", "ef", "g")) == ["abcd", "efg"]


def test_the_same_keys_again_fill_no_part() -> None:
    """A program may save one row in a loop."""
    assert rows(*added("ab", "ab", "ab", "cd", "ef")) == ["abcd", "ef"]


def test_other_keys_are_in_every_row() -> None:
    """They are in one row with all others if they are too many for that."""
    parts, keys = added("abc", "def")
    add_keys(keys, {"default": {b"x"}})
    assert rows(parts, keys) == ["abcx", "defx"]
    add_keys(keys, {"default": {b"v", b"w", b"y", b"z"}})
    assert rows(parts, keys) == ["abcdefvwxyz"]
