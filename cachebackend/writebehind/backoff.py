"""A database that is away is asked less and less often, and at once again when it is back."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from cachebackend.clock import Clock

__all__ = ["Backoff"]

logger = logging.getLogger("cachebackend")
#: Seconds until a database that failed is tried again, the first time and at most.
FIRST_SECONDS, MOST_SECONDS = 1.0, 30.0


@dataclass(slots=True)
class _Away:
    until: float
    seconds: float


class Backoff:
    """Which databases are away, for one process.

    Args:
        clock: Where time comes from.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._away: dict[str, _Away] = {}

    def waits(self, using: str) -> float:
        """Return the seconds for which a database is not to be asked; 0 if it may."""
        away = self._away.get(using)
        return 0.0 if away is None else max(away.until - self._clock.monotonic(), 0.0)

    def failed(self, using: str, error: Exception) -> None:
        """Note that a database did not answer."""
        before = self._away.get(using)
        seconds = FIRST_SECONDS if before is None else min(2 * before.seconds, MOST_SECONDS)
        self._away[using] = _Away(self._clock.monotonic() + seconds, seconds)
        if before is None:
            extra = {"event": "database_away", "database": using, "error": str(error)}
            logger.warning(
                "the database %r is away, and writes wait in the queue: %s", using, error, extra=extra
            )

    def answered(self, using: str) -> None:
        """Note that a database is there."""
        if self._away.pop(using, None):
            extra = {"event": "database_returned", "database": using}
            logger.warning("the database %r is back", using, extra=extra)
