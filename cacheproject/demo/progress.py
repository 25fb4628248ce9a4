"""The progress of a long command: bars on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

__all__ = ["Progress"]

#: Seconds between two lines, where there is no terminal.
LINE_SECONDS = 10.0


class Progress(AbstractContextManager["Progress"]):
    """The progress of a command's steps, shown on the error stream."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Bars(*columns, console=self._console, disable=not self._console.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._next_line = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, step: str, done: int, total: int | None = None) -> None:
        """Show how much of a step is done, and the total if it is known."""
        if self._console.is_terminal:
            if step not in self._tasks:
                self._tasks[step] = self._bars.add_task(step, total=total)
            self._bars.update(self._tasks[step], completed=done, total=total)
        elif (now := time.monotonic()) >= self._next_line or done == total:
            self._next_line = now + LINE_SECONDS
            self._console.print(f"{step}: {done:,}" + (f" of {total:,}" if total else ""))
