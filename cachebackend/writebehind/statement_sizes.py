"""The number of rows that one statement writes: those of the settings, or fewer if Postgres needs too long.

A table may have a slow trigger, or a session a low limit. A statement that exceeds its time limit would
exceed it each time, so the next ones have half as many rows, until the process ends.
"""

from __future__ import annotations

from django.db import models

from cachebackend.conf import write_behind_options

__all__ = ["StatementSizes", "statement_sizes"]


class StatementSizes:
    """For each table whose statements were too slow the most rows of one."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], int] = {}

    def rows(self, model: type[models.Model], using: str) -> int:
        """Return the most rows of one statement."""
        most = write_behind_options().batch_rows
        return min(most, self._rows.get((using, model._meta.label), most))

    def halve(self, model: type[models.Model], using: str, rows: int) -> None:
        """Halve the rows of one statement, after some rows took too long."""
        self._rows[using, model._meta.label] = max(min(rows, self.rows(model, using)) // 2, 1)


#: The sizes of this process.
statement_sizes = StatementSizes()
