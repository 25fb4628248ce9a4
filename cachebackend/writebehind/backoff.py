"""Exponential backoff: an unreachable database is tried less and less often until it answers."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from django.db import InterfaceError, OperationalError, connections

from cachebackend.clock import SYSTEM_CLOCK, Clock
from cachebackend.interrupts import note_interrupt

__all__ = ["Backoff", "database_backoff", "is_unreachable"]

logger = logging.getLogger("cachebackend")
#: Seconds until an unreachable database is tried again: after the first failure, and at most.
FIRST_SECONDS, MAX_SECONDS = 1.0, 30.0
#: Seconds after the time for the next try until this process does not know any more whether the database
#: answers: longer than a try takes. Other processes may have drained to it.
FORGET_SECONDS = 90.0


@dataclass(slots=True)
class _Outage:
    until: float
    seconds: float
    since: float


class Backoff:
    """The databases that this process cannot reach.

    Args:
        clock: The source of time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._outages: dict[str, _Outage] = {}

    def wait_seconds(self, using: str) -> float:
        """Return the seconds until a database may be tried again; 0 if it may be tried now."""
        outage = self._outages.get(using)
        return 0.0 if outage is None else max(outage.until - self._clock.monotonic(), 0.0)

    def waits(self) -> list[tuple[str, float, float]]:
        """Return the databases that did not answer when they were tried last, unless that is long ago.

        Returns:
            For each its alias, the seconds until it may be tried, and since when it does not answer, in
            seconds since 1970.
        """
        outages = [(using, outage) for using, outage in list(self._outages.items()) if self._lasts(outage)]
        return [(using, self.wait_seconds(using), outage.since) for using, outage in outages]

    def _lasts(self, outage: _Outage) -> bool:
        return self._clock.monotonic() - outage.until < FORGET_SECONDS

    def failed(self, using: str, error: Exception) -> None:
        """Record that a database did not answer."""
        previous = self._outages.get(using)
        if previous is not None and not self._lasts(previous):
            previous = None
        seconds = FIRST_SECONDS if previous is None else min(2 * previous.seconds, MAX_SECONDS)
        since = self._clock.now() if previous is None else previous.since
        self._outages[using] = _Outage(self._clock.monotonic() + seconds, seconds, since)
        if previous is None:
            extra = {"event": "database_away", "database": using, "error": str(error)}
            logger.warning(
                "the database %r is unreachable; writes stay in the queue: %s", using, error, extra=extra
            )

    def answered(self, using: str) -> None:
        """Record that a database answered."""
        if self._outages.pop(using, None):
            extra = {"event": "database_returned", "database": using}
            logger.warning("the database %r is reachable again", using, extra=extra)


def is_unreachable(using: str, error: Exception) -> bool:
    """Return whether a statement failed because its database cannot be reached."""
    if not isinstance(error, OperationalError | InterfaceError) or note_interrupt(error):
        return False
    return not connections[using].is_usable()


#: The databases that drains of this process cannot reach.
database_backoff = Backoff(SYSTEM_CLOCK)
