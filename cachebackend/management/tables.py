"""Tables in text: aligned columns, wrapped to the width of the terminal."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Protocol

__all__ = ["print_table", "printable"]

#: The width of a table, in characters, where the output is not a terminal.
PLAIN_WIDTH = 80
_GAP = "  "
#: Characters that control a terminal, or the direction of text.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class _Output(Protocol):
    def write(self, text: str, /) -> object: ...


def printable(text: str) -> str:
    """Return text with the characters escaped that control a terminal; line breaks and tabs are kept.

    What a command prints may hold keys and errors that others chose.
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _cell(value: object) -> str:
    """Return a cell as one line of text."""
    return "" if value is None else printable(str(value)).replace("\n", "\\n").replace("\t", "\\t")


def print_table(out: _Output, names: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print rows below the names of their columns; print nothing if there are no rows.

    Args:
        out: The stream that a command writes to.
        names: The names of the columns.
        rows: The cells of each row; None: nothing is shown.
    """
    table = [list(names), *([_cell(cell) for cell in row] for row in rows)]
    if len(table) == 1:
        return
    is_terminal = bool(getattr(out, "isatty", bool)())
    widths = _widths(table, shutil.get_terminal_size().columns if is_terminal else PLAIN_WIDTH)
    text = "\n".join(line for row in table for line in _lines(row, widths))
    out.write(f"{text}\n")


def _widths(table: Sequence[Sequence[str]], limit: int) -> list[int]:
    """Return the width of each column; the widest columns shrink until the table fits."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    while sum(widths) + len(_GAP) * (len(widths) - 1) > limit and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
    return widths


def _lines(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Return the lines of one row: as many as its longest cell needs."""
    cells = [
        [cell] if len(cell) <= width else textwrap.wrap(cell, width)
        for cell, width in zip(row, widths, strict=True)
    ]
    return [
        _GAP.join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
        for parts in zip_longest(*cells, fillvalue="")
    ]
