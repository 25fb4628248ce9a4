"""The layout of a record, byte by byte."""

from __future__ import annotations

import math
import struct

import pytest

from cachebackend.codec.record import (
    HEAD_BYTES,
    CodecId,
    Flag,
    Kind,
    Refresh,
    claimed,
    fresh_until_of,
    has_tags,
    is_plain,
    kind_of,
    plain_header,
    stored_of,
    tag_block_span,
    tag_bytes_of,
    tag_record,
    tags_of_block,
    value_record,
)
from cachebackend.errors import RecordError

TOKEN = b"t" * 16
REFRESH = Refresh(2000.5, 0.25)
TAGS = {b"one": TOKEN, b"two": b"u" * 16}


@pytest.mark.parametrize("refresh", [None, REFRESH], ids=["plain", "loaded"])
def test_the_first_bytes_of_a_record_say_when_its_time_is_over_and_where_its_tags_are(
    refresh: Refresh | None,
) -> None:
    """So a reader need not fetch a long payload."""
    record = value_record(CodecId.MSGPACK, b"payload", refresh, TAGS)
    head = record[:HEAD_BYTES]
    assert fresh_until_of(head) == (refresh.fresh_until if refresh else math.inf)
    begin, end = tag_block_span(head)
    assert tags_of_block(record[begin:end]) == TAGS
    assert record[end:] == b"payload"
    assert end - begin == 2 + tag_bytes_of(TAGS)


@pytest.mark.parametrize("head", [b"5", b"V", b"Vm", b"Vm\0payload"], ids=str)
def test_a_record_without_a_refresh_block_has_no_end(head: bytes) -> None:
    """An incomplete record has none either; its reader finds out."""
    assert fresh_until_of(head) == math.inf


def test_an_incomplete_tag_block_has_no_tags() -> None:
    """So its value is not valid."""
    assert tag_block_span(b"Vm") == (3, 5)
    assert tags_of_block(b"") == tags_of_block(b"\0\0") == {}


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (b"0", Kind.INTEGER), (b"-1", Kind.INTEGER), (b"V", Kind.VALUE), (b"S", Kind.STALE),
        (b"L", Kind.LEASE), (b"Q", Kind.QUARANTINE), (b"T", Kind.TAG),
    ],
)  # fmt: skip
def test_the_first_byte_says_what_a_record_is(record: bytes, kind: Kind) -> None:
    """Digits and a minus sign are an integer, so that INCRBY works."""
    assert kind_of(record) is kind


@pytest.mark.parametrize("record", [b"", b"X", b"v", b"+1", b"\x00"])
def test_any_other_first_byte_is_an_error(record: bytes) -> None:
    """Another program wrote it."""
    with pytest.raises(RecordError):
        kind_of(record)


@pytest.mark.parametrize("refresh", [None, REFRESH])
@pytest.mark.parametrize("tags", [None, TAGS])
@pytest.mark.parametrize("compressor", [0, Flag.ZSTD])
def test_a_value_comes_back_with_its_blocks(
    refresh: Refresh | None, tags: dict[bytes, bytes] | None, compressor: int
) -> None:
    """In every combination of refresh block, tags and compressor."""
    record = value_record(CodecId.JSON, b"payload", refresh, tags, compressor)
    stored = stored_of(record)
    assert (stored.codec, stored.refresh, stored.tags) == (CodecId.JSON, refresh, tags or {})
    assert (stored.payload, stored.compressor) == (b"payload", compressor)
    assert has_tags(record) is bool(tags)
    assert is_plain(record) is not (refresh or tags)


def test_the_layout_is_fixed() -> None:
    """Another release reads it: a byte more would be a miss of every value."""
    assert plain_header(CodecId.MSGPACK_EXTENDED) == b"Vm\x00"
    assert value_record(CodecId.PICKLE, b"p", REFRESH) == (
        b"Vp\x01" + struct.pack(">dd16sd", 2000.5, 0.25, bytes(16), 0.0) + b"p"
    )
    block = b"\x00\x03one" + TOKEN
    assert value_record(CodecId.JSON, b"p", None, {b"one": TOKEN}) == b"Vj\x02\x00\x15" + block + b"p"
    assert tag_record(TOKEN) == b"T" + TOKEN


def test_a_claim_changes_who_refreshes_and_nothing_else() -> None:
    """The payload and the tags stay where they are."""
    record = value_record(CodecId.JSON, b"payload", REFRESH, TAGS)
    taken = stored_of(claimed(record, TOKEN, 2010.0))
    assert taken.refresh == Refresh(2000.5, 0.25, TOKEN, 2010.0)
    assert (taken.tags, taken.payload) == (TAGS, b"payload")


@pytest.mark.parametrize("length", range(47))
def test_a_value_that_is_cut_short_is_an_error(length: int) -> None:
    """At any byte of its header and its blocks."""
    record = value_record(CodecId.JSON, b"", REFRESH, {b"a": TOKEN})[:length]
    with pytest.raises(RecordError):
        stored_of(record)


def test_an_unknown_flag_is_an_error() -> None:
    """A newer release set it: its block would be read as the payload."""
    with pytest.raises(RecordError, match="0x88"):
        stored_of(b"Vm\x88payload")


@pytest.mark.parametrize("record", [b"5", b"L" + TOKEN, b"S" + b"m\x02", b"Vm\x00"])
def test_only_a_value_is_plain_or_has_tags(record: bytes) -> None:
    """And one without any payload is neither."""
    assert not is_plain(record)
    assert not has_tags(record)
