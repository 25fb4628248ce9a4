"""Clocks of actors: time stands still unless somebody waits, and tokens are numbered."""

from __future__ import annotations

from cachebackend.protocol import missed_deletes

__all__ = ["NOW", "SlowClock", "StepClock"]

#: Where time stands, in seconds since 1970.
NOW = 1_000_000.0


class StepClock:
    """An actor's own clock: it moves when the actor waits; tokens are its own, and numbered."""

    def __init__(self, name: str) -> None:
        self.name, self.waited, self.tokens = name, 0.0, 0

    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return self.waited

    def random(self) -> float:
        return 0.5

    def token(self) -> bytes:
        self.tokens += 1
        return f"{self.name}{self.tokens}".encode().ljust(16, b".")


class SlowClock(StepClock):
    """Between any two looks so much time passes that the relay may have settled what came before."""

    def monotonic(self) -> float:
        self.waited += missed_deletes.SETTLING_SECONDS
        return self.waited
