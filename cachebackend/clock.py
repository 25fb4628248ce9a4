"""Time and chance, as one object that a test can hold still."""

from __future__ import annotations

import os
import random
import time
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "SystemClock"]

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
