"""What the processes of the live checker record in shared memory."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Iterable

__all__ = ["Ledger"]


class Ledger:
    """What was written and read, in shared memory that outlives the processes.

    Nothing in it is locked, because a killed process would hold the lock forever: each number is
    written by one process only.

    Args:
        rows: The number of rows that are written.
        readers: The number of processes that read them.

    Attributes:
        acknowledged: For each row the version that was acknowledged last.
        begun: For each row the newest version that its writer has begun to write.
        acknowledged_at: When it was acknowledged, by the monotonic clock.
        written: For each row the number of acknowledged writes.
        read: For each reader the number of checked reads.
        near: For each reader the number of its reads that a copy in its process answered.
        hits: For each reader the number of its reads for which the database was not asked.
        stale: For each reader the number of reads older than what was acknowledged before them.
        uncommitted: For each reader the number of reads of a version that was never committed.
        worst_stale: For each reader the most seconds between the acknowledgement (and the end of the
            last outage) and a stale read.
        back_since: When the last outage of a node ended; 0 during an outage.
        lag: The longest lag that the relay found, in seconds.
    """

    def __init__(self, rows: int, readers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.acknowledged = context.Array("q", rows, lock=False)
        self.acknowledged_at = context.Array("d", rows, lock=False)
        self.written, self.begun = (context.Array("q", rows, lock=False) for _ in range(2))
        self.read, self.near, self.stale, self.hits = (
            context.Array("q", readers, lock=False) for _ in range(4)
        )
        self.uncommitted = context.Array("q", readers, lock=False)
        self.worst_stale = context.Array("d", readers, lock=False)
        self.back_since = context.Value("d", time.monotonic(), lock=False)
        self.lag = context.Value("d", 0.0, lock=False)

    def begin(self, rows: Iterable[int]) -> None:
        """Record that the next versions of some rows are about to be written."""
        for row in rows:
            self.begun[row] += 1

    def acknowledge(self, rows: Iterable[int]) -> None:
        """Record that the versions of some rows that were begun last are committed."""
        for row in rows:
            self.acknowledged_at[row] = time.monotonic()
            self.acknowledged[row] = self.begun[row]
            self.written[row] += 1

    def record_read(self, reader: int, near_hits: int) -> None:
        """Record a read, and the number of near hits of its process so far."""
        self.read[reader] += 1
        self.near[reader] = near_hits

    def record_stale(self, reader: int, since: float) -> None:
        """Record a read older than what was acknowledged at a (monotonic) time."""
        late = time.monotonic() - max(since, self.back_since.value or math.inf)
        self.stale[reader] += 1
        self.worst_stale[reader] = max(self.worst_stale[reader], late)

    @property
    def writes(self) -> int:
        """The number of acknowledged writes."""
        return sum(self.written)

    @property
    def reads(self) -> int:
        """The number of checked reads."""
        return sum(self.read)
