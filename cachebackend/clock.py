"""Time and chance, as one object that a test can hold still."""

from __future__ import annotations

import os
import random
import time
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "LogRateLimit", "SystemClock"]

#: Bytes in a token: 128 random bits, so two tokens never meet.
TOKEN_BYTES = 16


class Clock(Protocol):
    """Where every module takes time, randomness and tokens from."""

    def now(self) -> float:
        """Return the wall time, in seconds since 1970."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back, from an unnamed start."""
        ...

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...

    def token(self) -> bytes:
        """Return 16 bytes that were never returned before."""
        ...


class SystemClock:
    """The clock of the machine."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    random = staticmethod(random.random)

    @staticmethod
    def token() -> bytes:
        """Return 16 random bytes; never made from the time, which two processes may share."""
        return os.urandom(TOKEN_BYTES)


SYSTEM_CLOCK = SystemClock()


class LogRateLimit:
    """Tells of what comes in crowds: at once, and then once in a while how many came.

    Args:
        clock: Where time is taken from.
        seconds: How long to keep silent after each time.
    """

    def __init__(self, clock: Clock, seconds: float = 60.0) -> None:
        self._clock = clock
        self._seconds = seconds
        self._told_at = float("-inf")
        self._came = 0

    def note(self, count: int = 1) -> int:
        """Note that some came; return how many did since it was last told, or 0 if it is not to be told."""
        self._came += count
        now = self._clock.monotonic()
        if now - self._told_at < self._seconds:
            return 0
        self._told_at = now
        came, self._came = self._came, 0
        return came
