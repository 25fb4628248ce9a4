"""Primary keys that the client makes, for rows that are created before the database sees them."""

from __future__ import annotations

import os
import threading
import time
from uuid import UUID

__all__ = ["uuid7"]

_lock = threading.Lock()
#: The last key's time, in units of 2 ** -12 ms; it keeps the keys of a process in order.
_last = 0


def uuid7() -> UUID:
    """Return a UUID of version 7. The keys of one process ascend in the order of the calls.

    So an index over them grows at its end, like that of an integer sequence.
    Source: RFC 9562, section 5.7, and method 3 of section 6.2 (more of the clock in rand_a).
    """
    global _last  # noqa: PLW0603  # one order for the whole process
    now = (time.time_ns() << 12) // 1_000_000
    with _lock:
        now = _last = max(now, _last + 1)
    milliseconds, fraction = now >> 12, now & 0xFFF
    random_bits = int.from_bytes(os.urandom(8)) >> 2
    return UUID(int=milliseconds << 80 | 7 << 76 | fraction << 64 | 2 << 62 | random_bits)


def _new_lock() -> None:
    global _lock  # noqa: PLW0603  # in a forked child, where another thread may have held the old one
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)
