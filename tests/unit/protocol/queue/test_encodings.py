"""The encodings of a batch's columns, as the queue stores them."""

from __future__ import annotations

import pytest

from cachebackend.errors import WriteBehindDamagedError
from cachebackend.protocol.queue.encodings import encoding_entry, entry_of_database, parse_encodings
from cachebackend.protocol.queue.partition import Partition

METER = Partition("shop.meter", 0)


def test_entries_are_parsed_to_the_code_of_each_column() -> None:
    """Columns may have any character except NUL, and be named like a code."""
    encodings = {"Odd Name": "i", "i": "n2", "é:": "ts"}
    text = b"".join(encoding_entry(column, code) for column, code in encodings.items())
    assert parse_encodings(METER, text) == encodings
    assert parse_encodings(METER, b"") == {}


def test_an_entry_names_the_database_of_the_rows() -> None:
    """The default one by no name; a batch without entries was written by an earlier release."""
    count, level = encoding_entry("count", "i"), encoding_entry("level", "n2")
    assert entry_of_database(count, "default") == count
    assert parse_encodings(METER, b"").databases == frozenset()
    assert parse_encodings(METER, count).databases == {"default"}
    parsed = parse_encodings(METER, count + entry_of_database(level, "tenant@1"))
    assert (parsed, parsed.databases) == ({"count": "i", "level": "n2"}, {"default", "tenant@1"})


@pytest.mark.parametrize("text", [b"\0", b"count", b"\0count\0", b"\0count\0i\0\0level\0", b"\0a\0b\0c\0"])
def test_a_text_that_is_not_made_of_entries_is_damaged(text: bytes) -> None:
    """It is reported, and no value is read with it."""
    with pytest.raises(WriteBehindDamagedError, match="names no encodings"):
        parse_encodings(METER, text)
