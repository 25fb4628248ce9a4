"""Queued writes of a row as text."""

from __future__ import annotations

import uuid

import pytest

from cachebackend.writebehind.batch import BatchRow
from cachebackend.writebehind.descriptions import describe_row
from tests.shop.models import Meter

PK = uuid.UUID(int=7)


@pytest.mark.parametrize(
    ("marker", "changes", "text"),
    [
        (b"", {("Odd Name", b"d"): b"2", ("level", b"p"): b"=5"}, "count add 2; level put 5"),
        (b"", {("level", b"g"): b"3", ("level", b"l"): b"9"}, "level at_least 3; level at_most 9"),
        (b"c", {("label", b"p"): b"=x"}, "create; label put 'x'"),
        (b"x", {}, "delete"),
        (b"r", {("seen", b"p"): b"0"}, "delete, create; seen put None"),
    ],
)
def test_changes_are_named_by_field_and_kind(
    marker: bytes, changes: dict[tuple[str, bytes], bytes], text: str
) -> None:
    """By the field's name, not its column's."""
    assert describe_row(Meter, BatchRow(PK, marker, changes)) == text


def test_a_change_that_cannot_be_decoded_is_shown_as_it_is_stored() -> None:
    """A damaged value, or a column that the model no longer has, hides no other."""
    row = BatchRow(PK, b"", {("level", b"p"): b"=?", ("gone", b"p"): b"=1"})
    assert describe_row(Meter, row) == "gone put b'=1'; level put b'=?'"
