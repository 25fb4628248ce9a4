"""Rows that refer to each other, found by their references."""

from __future__ import annotations

from cachebackend.writebehind.batch import BatchRow
from cachebackend.writebehind.cycles import find_cycles, referred_rows
from tests.shop.models import Meter

A, B, C, D = (("shop.a", name) for name in "abcd")


def test_a_cycle_has_all_rows_that_it_needs() -> None:
    """A row of it may refer to a row outside; a row that only refers to the cycle waits for it."""
    assert find_cycles({A: [B], B: [A, C], C: [], D: [A]}) == [[A, B, C]]
    assert find_cycles({A: [A], B: [C], C: [B]}) == [[A], [B, C]]


def test_rows_in_a_line_are_no_cycle() -> None:
    """One of them comes first; a row that is not named is missing."""
    assert find_cycles({A: [B], B: [C], C: [D]}) == []


def test_a_write_refers_to_the_rows_of_its_foreign_keys() -> None:
    """NULL and a value that is not a reference are none."""
    changes = {("tag_id", b"p"): b"=7", ("level", b"p"): b"=5"}
    assert referred_rows(Meter, BatchRow(1, b"", changes)) == [("shop.tag", "7")]
    assert referred_rows(Meter, BatchRow(1, b"", {("tag_id", b"p"): b"0"})) == []
