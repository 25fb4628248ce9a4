"""What a cached value depends on: its tags and shapes, with the tokens that it records and those of now."""

from __future__ import annotations

from typing import NamedTuple

from cachebackend import protocol
from cachebackend.backend.keys import shard_and_shape
from cachebackend.backend.query_names import table_of_shard
from cachebackend.client import RingClient
from cachebackend.clock import TOKEN_BYTES
from cachebackend.interrupts import raise_interrupt
from cachebackend.query_counts import shape_text
from cachebackend.shapes import Shape

__all__ = ["ShapeFigures", "TokenFigures", "shapes_of_shard", "tokens_of_value"]


class TokenFigures(NamedTuple):
    """A tag or a shape that a value depends on.

    Attributes:
        name: The key of the tag, or the shape as text.
        shard: The key of the shard that holds the shape; empty for a tag.
        recorded: The token that the value records, in hexadecimal.
        present: The token now; None if there is none, or if its node did not answer.
    """

    name: str
    shard: str
    recorded: str
    present: str | None

    @property
    def is_valid(self) -> bool:
        """Whether the value is valid as far as this is concerned."""
        return self.present == self.recorded


class ShapeFigures(NamedTuple):
    """A shape in a shard of the registry.

    Attributes:
        name: The shape as text; its id if it cannot be read.
        token: Its token, in hexadecimal.
    """

    name: str
    token: str


def tokens_of_value(client: RingClient, record: protocol.telemetry.Inspected) -> list[TokenFigures]:
    """Return what a value depends on: tags first."""
    shapes = {name: found for name in record.tags if (found := shard_and_shape(name)) is not None}
    tags = [name for name in record.tags if name not in shapes]
    of_tags, of_shapes = client.run(
        protocol.telemetry.stored_tokens(client.context, tags, list(shapes.values()))
    )
    figures = [
        TokenFigures(_text(tag), "", record.tags[tag].hex(), None if now is None else now[1:].hex())
        for tag, now in zip(tags, of_tags, strict=True)
    ]
    for (name, (shard, shape)), entry in zip(shapes.items(), of_shapes, strict=True):
        present = None if entry is None else entry[:TOKEN_BYTES].hex()
        figures.append(
            TokenFigures(_shape_text(shard, shape, entry), _text(shard), record.tags[name].hex(), present)
        )
    return figures


def shapes_of_shard(shard: bytes, record: protocol.telemetry.Inspected) -> list[ShapeFigures]:
    """Return the shapes in a shard, in the order of their texts."""
    return sorted(
        ShapeFigures(_shape_text(shard, shape, entry), entry[:TOKEN_BYTES].hex())
        for shape, entry in record.shapes.items()
    )


def _shape_text(shard: bytes, shape: bytes, entry: bytes | None) -> str:
    try:
        return shape_text(table_of_shard(_text(shard)), Shape.read((entry or b"")[TOKEN_BYTES:]))
    except ValueError as error:  # it is gone, damaged, or of another version
        raise_interrupt(error)
        return shape.hex()


def _text(key: bytes) -> str:
    """Return a key without the byte at its end that keeps tags apart from users' keys."""
    return key[:-1].decode("utf-8", "replace")
