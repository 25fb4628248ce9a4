"""The periods that charts show, and the steps in which each is counted."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DAY", "HOUR", "PERIODS", "WEEK", "Period"]


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

    def key(self, number: int) -> str:
        """Return the end of the key under which a step is stored."""
        return str(number) if self is HOUR else f"{self.seconds}-{number}"


HOUR = Period("hour", 60, 60, 25 * 3600)
DAY = Period("day", 600, 144, 25 * 3600)
WEEK = Period("week", 3600, 168, 8 * 24 * 3600)
PERIODS = {period.name: period for period in (HOUR, DAY, WEEK)}
