"""The periods that charts show, and the steps in which each is counted."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DAY", "HOUR", "PERIODS", "WEEK", "Period"]


#: Seconds of a step after which its counts say what the whole step will have.
MIN_ELAPSED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Period:
    """A period until now, divided into steps of equal length; the current step is the last one.

    Attributes:
        name: Its name.
        seconds: The length of a step. Steps are numbered from 1970 on.
        steps: The number of steps.
        keep_seconds: For how many seconds the counts of a step are kept.
    """

    name: str
    seconds: int
    steps: int
    keep_seconds: int

    def finished(self, now: float) -> float:
        """Return how much of the current step is over at a time in seconds since 1970, 0 to 1.

        0.0 for less than a minute: what processes have counted in it is mostly not published yet.
        """
        elapsed = now % self.seconds
        return elapsed / self.seconds if elapsed >= MIN_ELAPSED_SECONDS else 0.0

    def key(self, number: int) -> str:
        """Return the end of the key under which a step is stored."""
        return str(number) if self is HOUR else f"{self.seconds}-{number}"


HOUR = Period("hour", 60, 60, 25 * 3600)
DAY = Period("day", 600, 144, 25 * 3600)
WEEK = Period("week", 3600, 168, 8 * 24 * 3600)
PERIODS = {period.name: period for period in (HOUR, DAY, WEEK)}
