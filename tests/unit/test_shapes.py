"""Shapes: what they depend on, their descriptions, and the tags of their values."""

from __future__ import annotations

import ormsgpack
import pytest

from cachebackend.shapes import NULL, SHAPE_ID_BYTES, Shape, value_digest


def test_the_bound_columns_are_columns_that_the_result_depends_on() -> None:
    """A row that moves to another list must invalidate both lists."""
    shape = Shape(["category_id"], ["title"])
    assert shape.columns == {"category_id", "title"}
    assert shape.depends_on(["category_id"])


def test_a_change_of_other_columns_does_not_matter() -> None:
    """A list that neither filters nor orders by a column survives its changes."""
    shape = Shape(["category_id"], ["created"])
    assert not shape.depends_on({"stock", "price"})
    assert shape.depends_on({"stock", "created"})
    assert shape.depends_on(None)


def test_a_shape_of_all_columns_depends_on_every_change() -> None:
    """None stands for all columns, also for those that the reader does not know."""
    assert Shape([], None).depends_on(["anything"])


def test_a_description_gives_the_shape_back() -> None:
    """Two processes that name the columns in another order have one shape, and one id."""
    shape = Shape(["b", "a"], ["d", "c"])
    again = Shape.read(shape.description)
    assert again == shape
    assert hash(again) == hash(shape)
    assert again.id == Shape(["a", "b"], ["c", "d", "a"]).id
    assert len(shape.id) == SHAPE_ID_BYTES
    assert Shape.read(Shape([], None).description) == Shape([], None)


@pytest.mark.parametrize(
    "description",
    [
        b"",
        b"\xc1",
        b"x" * 40,
        ormsgpack.packb([1, 2]),
        ormsgpack.packb([["a"]]),
        ormsgpack.packb([["a"], [1]]),
    ],
)
def test_other_bytes_are_no_description(description: bytes) -> None:
    """What another program stores in the registry is refused with an error that the caller expects."""
    with pytest.raises(ValueError, match="not the description of a shape"):
        Shape.read(description)


def test_a_tag_is_made_of_the_values_of_the_bound_columns() -> None:
    """Values of other columns do not matter, and the names of the columns do."""
    one, two = value_digest("1"), value_digest("2")
    shape = Shape(["a", "b"], [])
    assert shape.tag({"a": one, "b": two, "c": one}) == shape.tag({"a": one, "b": two})
    assert shape.tag({"a": one, "b": two}) != shape.tag({"a": two, "b": one})
    assert shape.tag({"a": one, "b": two}) != Shape(["a", "c"], []).tag({"a": one, "c": two})


def test_a_tag_needs_every_bound_value() -> None:
    """If a value is not known, which tag is wrong is not known."""
    assert Shape(["a", "b"], []).tag({"a": NULL}) is None


def test_null_is_not_a_text() -> None:
    """NULL and each text have digests of their own, the empty text among them."""
    digests = [NULL, value_digest(None), value_digest(""), value_digest("None"), value_digest("\ud800")]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


def test_shapes_are_shown_with_their_columns() -> None:
    """An operator reads the columns, not bytes."""
    assert repr(Shape(["a"], ["b"])) == "<Shape a of a, b>"
    assert repr(Shape([], None)) == "<Shape nothing of all columns>"
