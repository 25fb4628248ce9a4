"""Clocks of actors: time advances only when an actor waits, and tokens are numbered."""

from __future__ import annotations

from cachebackend.protocol import missed_deletes

__all__ = ["NOW", "SlowClock", "StepClock"]

#: The wall clock of every actor, in seconds since 1970; it never advances.
NOW = 1_000_000.0


class StepClock:
    """The clock of one actor: it advances when the actor waits, and numbers the actor's tokens."""

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
    """A clock that advances by ``SETTLING_SECONDS`` at each call: the relay may run between any two."""

    def monotonic(self) -> float:
        self.waited += missed_deletes.SETTLING_SECONDS
        return self.waited
