"""Failures that a batch meets again and again, with an SQLSTATE of the server or of another transaction.

Such a failure ends by itself, and the batch is retried as it is. But a trigger may raise the same SQLSTATE
for one row, and then it does not end: after some identical failures that row is looked for.
"""

from __future__ import annotations

__all__ = ["RepeatedFailures", "repeated_failures"]

#: Identical failures of a batch in this process until one of its rows may be at fault: as many as one
#: drain tries.
TOLERATED = 5
#: The most batches whose failures are counted; a batch may be drained by another process, and stays here.
_MAX_BATCHES = 1000


class RepeatedFailures:
    """For each batch that has failed its last SQLSTATE, and how often in a row it had that."""

    def __init__(self) -> None:
        self._failures: dict[str, tuple[str, int]] = {}

    def is_repeated(self, name: str, error: Exception) -> bool:
        """Count a failure of a batch; return whether it has failed so more often than is tolerated."""
        sqlstate = str(getattr(error.__cause__, "sqlstate", None) or "")
        before, count = self._failures.pop(name, (sqlstate, 0))
        count = count + 1 if before == sqlstate else 1
        if len(self._failures) >= _MAX_BATCHES:
            del self._failures[next(iter(self._failures))]
        self._failures[name] = (sqlstate, count)
        return count > TOLERATED

    def forget(self, name: str) -> None:
        """Forget the failures of a batch that was applied."""
        self._failures.pop(name, None)


#: The failures of this process.
repeated_failures = RepeatedFailures()
