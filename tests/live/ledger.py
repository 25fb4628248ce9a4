"""What the processes of the live checker note in memory that they share."""

from __future__ import annotations

import math
import multiprocessing
import time

__all__ = ["Ledger"]


class Ledger:
    """What was written and read; it outlives the processes.

    Nothing in it is locked, for a process that is killed would keep the lock: each number has
    one process that writes it.

    Args:
        rows: How many rows are written.
        readers: How many processes read them.

    Attributes:
        acknowledged: For each row the version that was acknowledged last.
        acknowledged_at: When, by the monotonic clock.
        written: How many writes of it were acknowledged.
        read: For each reader, how many reads were checked.
        near: For each reader, how many of its reads were answered by a copy in its process.
        stale: How many of them returned something older than what was acknowledged before them.
        worst_stale: The most seconds that such a read came after the acknowledgement, and after
            the last accident was over.
        back_since: When the last accident of a node was over; 0: it is not.
        lag: The worst lag that the relay found, in seconds.
    """

    def __init__(self, rows: int, readers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.acknowledged = context.Array("q", rows, lock=False)
        self.acknowledged_at = context.Array("d", rows, lock=False)
        self.written = context.Array("q", rows, lock=False)
        self.read, self.near, self.stale = (context.Array("q", readers, lock=False) for _ in range(3))
        self.worst_stale = context.Array("d", readers, lock=False)
        self.back_since = context.Value("d", time.monotonic(), lock=False)
        self.lag = context.Value("d", 0.0, lock=False)

    def note_read(self, reader: int, near_hits: int) -> None:
        """Note a read, and how many its process has found in copies so far."""
        self.read[reader] += 1
        self.near[reader] = near_hits

    def note_stale(self, reader: int, since: float) -> None:
        """Note a read that returned something older than what was acknowledged at a (monotonic) time."""
        late = time.monotonic() - max(since, self.back_since.value or math.inf)
        self.stale[reader] += 1
        self.worst_stale[reader] = max(self.worst_stale[reader], late)

    @property
    def writes(self) -> int:
        """How many writes were acknowledged."""
        return sum(self.written)

    @property
    def reads(self) -> int:
        """How many reads were checked."""
        return sum(self.read)
