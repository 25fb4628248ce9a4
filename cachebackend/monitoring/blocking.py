"""The database sessions that keep partitions from being drained."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from cachebackend import writebehind
from cachebackend.invalidation.outbox import READ_TIMEOUT
from cachebackend.invalidation.outbox_databases import ask_databases
from cachebackend.monitoring.faults import RETRIED_SECONDS
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind import Blocker, RowLock

__all__ = ["BlockingSession", "blocking_sessions"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BlockingSession:
    """A database session at whose end a partition is drained.

    Attributes:
        session: The session. It waits for nothing, and is not a drain that makes progress.
        holds_partition: Whether it holds the lock of the partition; otherwise it holds rows.
        writes: How many writes were set aside because it holds their rows, over all partitions.
    """

    session: Blocker
    holds_partition: bool = False
    writes: int = 0

    @property
    def since(self) -> float | None:
        """When its transaction began, in seconds since 1970; None if it is in none."""
        return None if self.session.since is None else self.session.since.timestamp()

    def __str__(self) -> str:
        if self.holds_partition:
            return f"{self.session} holds the lock of the partition"
        if not self.writes:
            return f"{self.session} holds rows that queued writes need"
        need = "queued write needs" if self.writes == 1 else "queued writes need"
        return f"{self.session} holds rows that {self.writes:,} {need}"


def blocking_sessions(late: Sequence[Partition]) -> dict[Partition, BlockingSession]:
    """Return the session that blocks each partition; a database that does not answer is left out.

    Args:
        late: The partitions whose queued writes are late.
    """
    found = {holder.partition: holder for holder in reversed(_asked(writebehind.lock_holders))}
    now = time.time()
    locks = _asked(partial(writebehind.row_locks, late=late))
    waiting = [each for each in locks if late or _is_old(each, now)]
    writes: Counter[int] = Counter()
    for lock in waiting:
        writes[lock.blocker.pid] += lock.writes
    blocking = {
        partition: BlockingSession(holder.culprit, not holder.blockers, writes[holder.culprit.pid])
        for partition, holder in found.items()
        if holder.culprit
    }
    return blocking | {
        each.partition: BlockingSession(each.blocker, writes=writes[each.blocker.pid]) for each in waiting
    }


def _is_old(lock: RowLock, now: float) -> bool:
    """Return whether writes have waited for long enough; if a partition is late, all count at once."""
    return lock.parked_since is None or now - lock.parked_since.timestamp() > RETRIED_SECONDS


def _asked(ask: Callable[[str], list[T]]) -> list[T]:
    asked = ask_databases(ask, READ_TIMEOUT, writebehind.databases())
    return [each for found in asked.found.values() for each in found]
