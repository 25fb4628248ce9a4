"""Which tags of a shape a change makes wrong, and the form in which a change waits for the commit."""

from __future__ import annotations

import pytest

from cachebackend.backend.keys import content_of_change_key, is_tag_key, pattern_of_key
from cachebackend.invalidation.query_changes import ResultChange, ValueChange
from cachebackend.shapes import NULL, Shape, value_digest

ONE, TWO = value_digest("1"), value_digest("2")
BY_A = Shape(["a"], ["b"])
INSERT = ValueChange(None, None, {"a": ONE, "b": ONE})
MOVE = ValueChange(["a"], {"a": ONE, "b": ONE}, {"a": TWO, "b": ONE})
OTHER = ValueChange(["c"], {"a": ONE, "b": ONE}, {"a": ONE, "b": ONE})


def change(*rows: ValueChange) -> ResultChange:
    return ResultChange(["default@db"], "shop_product", list(rows))


def test_a_change_is_a_key_that_is_deleted_with_the_values() -> None:
    """And the same change is read from it again."""
    before = change(INSERT, MOVE, OTHER)
    content = content_of_change_key(before.key)
    assert content is not None
    assert not is_tag_key(before.key)
    assert pattern_of_key(before.key) is None
    assert ResultChange.read(content) == before
    without = before.without_rows()
    assert ResultChange.read(content_of_change_key(without.key) or b"") == without


def test_a_row_makes_the_tags_of_its_values_wrong() -> None:
    """A new row its own, a row that moves those of both values, and a row that does not change them none."""
    of_one, of_two = BY_A.tag({"a": ONE}), BY_A.tag({"a": TWO})
    assert change(INSERT).wrong_tags(BY_A) == {of_one}
    assert change(MOVE).wrong_tags(BY_A) == {of_one, of_two}
    assert change(OTHER).wrong_tags(BY_A) == set()


def test_a_value_that_is_not_known_may_be_any() -> None:
    """Then every tag of the shape may be wrong, but only if the shape depends on the change."""
    unknown = ValueChange(["b"], {"b": NULL}, {"b": ONE})
    assert change(unknown).wrong_tags(BY_A) is None
    assert change(unknown).wrong_tags(Shape(["a"], ["c"])) == set()


@pytest.mark.parametrize(
    ("rows", "columns"), [([MOVE], ["a"]), ([MOVE, OTHER], ["a", "c"]), ([MOVE, INSERT], None)]
)
def test_a_change_without_rows_has_their_columns(rows: list[ValueChange], columns: list[str] | None) -> None:
    """An inserted row changes all of them."""
    without = change(*rows).without_rows()
    assert without.rows is None
    assert without.columns == (None if columns is None else set(columns))
    assert without.without_rows() is without
    assert without.wrong_tags(BY_A) is None
    assert without.wrong_tags(Shape([], ["other"])) == (set() if columns else None)
