"""Time and randomness, as one object that a test can replace."""

from __future__ import annotations

import os
import random
import time
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "LogRateLimit", "RateLimit", "SystemClock"]

#: Bytes in a token: with 128 random bits no two tokens are equal.
TOKEN_BYTES = 16


class Clock(Protocol):
    """The source of time, randomness and tokens for every module."""

    def now(self) -> float:
        """Return the time of day, in seconds since 1970."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an unspecified moment; they never go backwards."""
        ...

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...

    def token(self) -> bytes:
        """Return 16 bytes that no call returned before, in any process."""
        ...


class SystemClock:
    """The clock of the machine.

    Its numbers are those of the operating system: a project that seeds the module ``random`` in each process
    gets the same sequence as without a cache, and its processes do not all load a value again at once.
    """

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    random = staticmethod(random.SystemRandom().random)

    @staticmethod
    def token() -> bytes:
        """Return 16 random bytes; a token made from the time could be equal in two processes."""
        return os.urandom(TOKEN_BYTES)


SYSTEM_CLOCK = SystemClock()


class RateLimit:
    """Lets something happen at most once in a number of seconds; the first time at once.

    Args:
        clock: The source of time.
        seconds: The least time between two of them.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._last = float("-inf")

    def allows(self) -> bool:
        """Return whether it may happen now; the caller then does it."""
        now = self._clock.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


class LogRateLimit:
    """Rate-limits a repeated log message, and counts the events that it suppressed.

    The first event is logged at once, and later ones at most once in ``seconds`` seconds.

    Args:
        clock: The source of time.
        seconds: The least time between two log messages.
    """

    def __init__(self, clock: Clock, seconds: float = 60.0) -> None:
        self._limit = RateLimit(clock, seconds)
        self._unlogged = 0

    def to_log(self, count: int = 1) -> int:
        """Count events.

        Returns:
            The number of events since the last log message, if one is due now; else 0.
        """
        self._unlogged += count
        if not self._limit.allows():
            return 0
        unlogged, self._unlogged = self._unlogged, 0
        return unlogged
