"""The slowest pace at which a node may send the replies of one exchange.

The timeout of a socket bounds the wait for the next byte. A node that sent one byte before each timeout, or
one of many replies, would hold a call for long. So an exchange that has begun must also bring enough bytes
for each further timeout; a complete reply counts as some bytes too, because most replies are short.
"""

from __future__ import annotations

import time

__all__ = ["BYTES_A_TIMEOUT", "REPLY_BYTES", "Pace", "allowed_seconds"]

#: The fewest bytes that a node must send in each timeout: 64 KiB/s for 0.25 s. One read of a TLS connection
#: brings no more, and in a process with busy threads each read may wait for the interpreter's lock.
BYTES_A_TIMEOUT = 16_384
#: The bytes as which a complete reply counts, besides its own: 64 replies may take one timeout.
REPLY_BYTES = 256


def allowed_seconds(received: int, timeout: float) -> float:
    """Return how long an exchange may have taken since its first bytes came.

    Args:
        received: The bytes that came, with ``REPLY_BYTES`` for each complete reply.
        timeout: The most seconds that a node may take for ``BYTES_A_TIMEOUT`` bytes.
    """
    return (1 + received // BYTES_A_TIMEOUT) * timeout


class Pace:
    """The pace of one exchange of a blocking connection, from its first bytes on.

    Args:
        timeout: As for ``allowed_seconds``.
    """

    __slots__ = ("_begun", "_received", "_timeout")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._begun: float | None = None
        self._received = 0

    def received(self, count: int) -> None:
        """Count bytes that were received.

        Raises:
            TimeoutError: They came too slowly.
        """
        now = time.monotonic()
        if self._begun is None:
            self._begun = now
        self._received += count
        if now - self._begun > allowed_seconds(self._received, self._timeout):
            raise TimeoutError

    def completed(self, replies: int) -> None:
        """Count complete replies."""
        self._received += replies * REPLY_BYTES
