"""What commands print: tables that fit a terminal, and plain text elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["print_table"]

#: What a table may take where nobody says how wide the paper is.
PLAIN_WIDTH = 80


def print_table(out: object, names: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print rows under their names, each cell as it is; nothing if there are none.

    Args:
        out: What a command writes to.
        names: The columns.
        rows: For each row its cells.
    """
    table = Table(*names, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # a str is markup to rich
    if table.row_count:
        file = cast("IO[str]", out)  # Django's wrapper writes as a file does
        is_terminal = bool(getattr(out, "isatty", bool)())
        options: dict[str, Any] = {} if is_terminal else {"width": PLAIN_WIDTH}
        Console(file=file, **options).print(table)
