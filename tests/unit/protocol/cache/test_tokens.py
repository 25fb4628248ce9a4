"""Tokens: which values are valid under the tokens that an operation has read."""

from __future__ import annotations

import pytest

from cachebackend.codec import tag_block_of
from cachebackend.codec.record import CodecId, value_record
from cachebackend.protocol.cache.tokens import Tokens

A, B = b"a" * 16, b"b" * 16


def block(**tags: bytes) -> bytes:
    """Return the tag block of a value with these tags."""
    return tag_block_of(
        value_record(CodecId.JSON, b"1", tags={name.encode(): token for name, token in tags.items()})
    )


def tokens_of(*required: bytes, **tags: bytes | None) -> Tokens:
    """Return the tokens that these tags have now."""
    tokens = Tokens(required)
    tokens.add({name.encode(): token for name, token in tags.items()})
    return tokens


def test_a_value_is_valid_if_all_its_tags_have_the_tokens_that_it_records() -> None:
    """A tag with another token, without one, or that was not read makes it invalid."""
    recorded = block(t=A, u=B)
    assert tokens_of(t=A, u=B, other=A).are_recorded_in(recorded)
    for changed in (tokens_of(t=A, u=A), tokens_of(t=A, u=None), tokens_of(t=A)):
        assert not changed.are_recorded_in(recorded)


@pytest.mark.parametrize("required", [(), (b"t",), (b"t", b"u")], ids=repr)
def test_a_value_without_a_required_tag_is_invalid(required: tuple[bytes, ...]) -> None:
    """A value may have more tags than the reader asks for."""
    tokens = tokens_of(*required, t=A, u=B, v=A)
    assert tokens.are_recorded_in(block(u=B, t=A, v=A))
    assert tokens.are_recorded_in(block(t=A)) is (b"u" not in required)
    assert tokens.are_recorded_in(b"") is (not required)


@pytest.mark.parametrize("damaged", [b"\0", b"\0\0", b"\0\x05\0", b"\0\x03\0\xff"], ids=repr)
def test_a_tag_block_that_cannot_be_read_makes_the_value_invalid(damaged: bytes) -> None:
    """No tag could invalidate the value."""
    tokens = tokens_of(t=A)
    assert not tokens.are_recorded_in(damaged)
    assert tokens.unread([damaged]) == []


def test_tokens_that_are_added_later_count() -> None:
    """A block is compared again."""
    tokens = tokens_of(t=A)
    assert tokens.unread([block(t=A, u=B), block(u=A), b""]) == [b"u"]
    assert not tokens.are_recorded_in(block(t=A, u=B))
    tokens.add({b"u": B})
    assert tokens.unread([block(t=A, u=B)]) == []
    assert tokens.are_recorded_in(block(t=A, u=B))


def test_a_loaded_value_records_the_tokens_of_the_required_tags() -> None:
    """If one has no token, the value must not be stored."""
    tokens = tokens_of(b"t", b"u", t=A, u=None, other=B)
    assert (tokens.missing(), tokens.of_required()) == ([b"u"], None)
    tokens.add({b"u": B})
    assert (tokens.missing(), tokens.of_required()) == ([], {b"t": A, b"u": B})
    assert Tokens().of_required() == {}
