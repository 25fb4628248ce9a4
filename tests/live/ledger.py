"""What the processes of the live checker note in memory that they share."""

from __future__ import annotations

import multiprocessing
import time

__all__ = ["Ledger"]


class Ledger:
    """What was written and read; it outlives the processes.

    Attributes:
        acknowledged: The version of each row that was acknowledged last.
        acknowledged_at: When, by the monotonic clock.
        back_since: When the last accident of a node was over; 0: it is not.
        writes: Writes that were acknowledged.
        reads: Reads that were checked.
        stale: Those that returned something older than what was acknowledged before them.
        worst_stale: The most seconds that such a read came after the acknowledgement, and after
            the last accident was over.
        lag: The worst lag that the relay found, in seconds.
    """

    def __init__(self, rows: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.acknowledged = context.Array("q", rows, lock=False)
        self.acknowledged_at = context.Array("d", rows, lock=False)
        self.back_since = context.Value("d", time.monotonic())
        self.writes, self.reads, self.stale = (context.Value("q", 0) for _ in range(3))
        self.worst_stale, self.lag = context.Value("d", 0.0), context.Value("d", 0.0)
