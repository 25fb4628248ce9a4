"""Tables in text."""

from __future__ import annotations

from io import StringIO

import pytest

from cachebackend.management.tables import print_table, printable


@pytest.mark.parametrize("cell", ["[/k]", "[b]bold[/b]", ":fire:", "\\[x]"])
def test_a_cell_is_printed_as_it_is(cell: str) -> None:
    """A key may look like markup; it is not interpreted."""
    out = StringIO()
    print_table(out, ["key"], [[cell]])
    assert out.getvalue().splitlines()[1].rstrip() == cell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\rb\x9bc", "a\\rb\\x9bc"),
        ("right\u202eleft", "right\\u202eleft"),
        ("Ünïcode 時", "Ünïcode 時"),
    ],
)
def test_characters_that_control_a_terminal_are_escaped(text: str, shown: str) -> None:
    """A key or an error may hold some: they would change what the terminal shows, or its title."""
    out = StringIO()
    print_table(out, ["key"], [[text], ["a\nb"]])
    assert out.getvalue().split() == ["key", *shown.split(), "a\\nb"]
    assert printable(text) == shown
    assert printable("two\nlines\tand a tab") == "two\nlines\tand a tab"


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
