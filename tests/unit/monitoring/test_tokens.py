"""The shapes of a shard, as the inspector shows them."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from cachebackend.backend.keys import shard_and_shape
from cachebackend.monitoring import tokens
from cachebackend.monitoring.tokens import ShapeFigures, TokenFigures, shapes_of_shard
from cachebackend.protocol.telemetry import Inspected
from cachebackend.shapes import Shape

SHARD, TOKEN = b":1:shapes:default@x:shop_product:3\xff", b"t" * 16


def test_the_shapes_of_a_shard_are_shown_as_text() -> None:
    """One whose description cannot be read is shown by its id."""
    shape = Shape(["category_id"], ["created"])
    record = Inspected(0, "shapes", shapes={shape.id: TOKEN + shape.description, b"?" * 12: TOKEN + b"x"})
    assert shapes_of_shard(SHARD, record) == [
        ShapeFigures("3f" * 12, TOKEN.hex()),
        ShapeFigures("shop_product by category_id (created)", TOKEN.hex()),
    ]


def test_a_token_is_valid_if_it_is_still_the_same() -> None:
    """A tag that is gone makes the value a miss."""
    figures = [TokenFigures("tag", "", "aa", present) for present in ("aa", "bb", None)]
    assert [each.is_valid for each in figures] == [True, False, False]


def test_the_name_of_a_shape_is_its_shard_and_its_id() -> None:
    """The id may have the byte with which the keys of tags end."""
    for shape in (b"i" * 12, b"\xff" * 12, b"i" * 11 + b"\xff"):
        assert shard_and_shape(SHARD + shape) == (SHARD, shape)
    assert shard_and_shape(b":1:tag:a\xff") is None


@pytest.mark.parametrize("name", [b"", b"no colon\xff", b":1:tag:\xce\xff", b"\xff", b"\xed\xa0\x80\xff"])
@pytest.mark.parametrize("shape", [b"", b"i" * 12], ids=["tag", "shape"])
def test_a_damaged_name_is_shown_as_far_as_it_can_be_read(
    monkeypatch: pytest.MonkeyPatch, name: bytes, shape: bytes
) -> None:
    """A record may name anything. The name can be encoded again, as a response needs it."""
    entry = TOKEN + Shape(["a"], []).description
    monkeypatch.setattr(
        tokens.protocol.telemetry,
        "stored_tokens",
        lambda _, tags, shapes: ([None for _ in tags], [entry for _ in shapes]),
    )
    client = Mock(run=lambda found: found)
    [figures] = tokens.tokens_of_value(client, Inspected(0, "value", tags={name + shape: TOKEN}))
    assert figures.recorded == TOKEN.hex()
    (figures.name + figures.shard).encode()
