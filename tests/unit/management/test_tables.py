"""Tables in text."""

from __future__ import annotations

from io import StringIO

import pytest

from cachebackend.management.tables import print_table


@pytest.mark.parametrize("cell", ["[/k]", "[b]bold[/b]", ":fire:", "\\[x]"])
def test_a_cell_is_printed_as_it_is(cell: str) -> None:
    """A key may look like markup; it is not interpreted."""
    out = StringIO()
    print_table(out, ["key"], [[cell]])
    assert out.getvalue().splitlines()[1].rstrip() == cell


def test_a_table_fits_eighty_columns() -> None:
    """If the output is not a terminal."""
    out = StringIO()
    print_table(out, ["key", "error"], [["k" * 30, "no " * 100]])
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_a_table_without_rows_is_not_printed() -> None:
    """Nor are the names of its columns."""
    out = StringIO()
    print_table(out, ["key"], [])
    assert out.getvalue() == ""
