"""The slowest pace at which a node may send a reply.

The timeout of a socket bounds the wait for the next byte. A node that sent one byte before each timeout would
hold a call without a limit. So a reply that has begun must also bring enough bytes for each further timeout.
"""

from __future__ import annotations

import time

__all__ = ["BYTES_A_TIMEOUT", "Pace"]

#: The fewest bytes that a node must send in each timeout, while a reply is incomplete: 256 KiB/s for 0.25 s.
BYTES_A_TIMEOUT = 65_536


class Pace:
    """The pace of one reply, from its first bytes on.

    Args:
        timeout: The most seconds that a node may take for ``BYTES_A_TIMEOUT`` bytes.
    """

    __slots__ = ("_begun", "_bytes", "_timeout")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._begun = time.monotonic()
        self._bytes = 0

    def received(self, count: int) -> None:
        """Count bytes that were received.

        Raises:
            TimeoutError: They came too slowly.
        """
        self._bytes += count
        timeouts = 1 + self._bytes // BYTES_A_TIMEOUT
        if time.monotonic() - self._begun > timeouts * self._timeout:
            raise TimeoutError
