"""Rows as cached values."""

from __future__ import annotations

import pytest

from cachebackend.managers.rows import RowShape
from tests.shop.models import Author, Line, Tag


def test_a_row_comes_back_as_its_columns() -> None:
    """And as an instance that was read from the database."""
    shape = RowShape(Tag)
    row = shape.row(shape.value([7, "x"]))
    assert row == [7, "x"]
    tag = shape.instance(row, "default")
    assert (tag.pk, tag.name, tag._state.adding, tag._state.db) == (7, "x", False, "default")


@pytest.mark.parametrize("value", [None, 5, [], ["?", 7, "x"], "text"])
def test_a_value_of_another_shape_is_a_miss(value: object) -> None:
    """Another program wrote it, or the model had other fields."""
    assert RowShape(Tag).row(value) is None


def test_a_model_with_another_field_has_another_mark() -> None:
    """So a deploy that adds a field reads no row without it."""
    assert RowShape(Tag).row(RowShape(Author).value([1, "x", None])) is None
    shorter = RowShape(Tag).value([7])
    assert RowShape(Tag).row(shorter) is None


def test_rows_of_another_manager_have_another_mark() -> None:
    """So a release that changes ``base_manager`` reads no row that its manager leaves out."""
    assert RowShape(Tag, "objects").row(RowShape(Tag).value([7, "x"])) is None


def test_the_primary_key_of_a_row_is_found_among_its_columns() -> None:
    """A tuple if it is composite."""
    assert RowShape(Tag).pk([7, "x"]) == 7
    assert RowShape(Line).pk([1, 2, "text"]) == (1, 2)
