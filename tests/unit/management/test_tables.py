"""Tables that commands print."""

from __future__ import annotations

from io import StringIO

import pytest

from cachebackend.management.tables import print_table


@pytest.mark.parametrize("cell", ["[/k]", "[b]bold[/b]", ":fire:", "\\[x]"])
def test_a_cell_is_printed_as_it_is(cell: str) -> None:
    """Keys are whatever people make them, and no markup."""
    out = StringIO()
    print_table(out, ["key"], [[cell]])
    assert out.getvalue().splitlines()[1].rstrip() == cell


def test_a_table_fits_eighty_columns() -> None:
    """Where nobody says how wide the paper is."""
    out = StringIO()
    print_table(out, ["key", "error"], [["k" * 30, "no " * 100]])
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_nothing_is_printed_of_nothing() -> None:
    """Not even the names of the columns."""
    out = StringIO()
    print_table(out, ["key"], [])
    assert out.getvalue() == ""
