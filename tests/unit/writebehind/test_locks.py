"""Sessions that hold the lock of a partition."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cachebackend.protocol.queue import Partition
from cachebackend.writebehind.locks import LockHolder
from cachebackend.writebehind.sessions import Blocker

SINCE = datetime(2026, 5, 1, tzinfo=UTC)
PSQL = Blocker(99, "psql", "10.0.0.9", "idle in transaction", None, "SELECT ? FOR UPDATE")


@pytest.mark.parametrize(
    ("state", "seconds", "blockers", "culprit"),
    [
        ("active", 20.0, (), None),
        ("active", 70.0, (), 7),
        ("idle in transaction", 0.0, (), None),
        ("idle in transaction", 6.0, (), 7),
        ("active", 20.0, (PSQL,), 99),
        ("active", 70.0, (PSQL,), 99),
    ],
)
def test_the_session_to_end(
    state: str, seconds: float, blockers: tuple[Blocker, ...], culprit: int | None
) -> None:
    """Not a drain that waits for another session, and not one that makes progress."""
    holder = LockHolder(
        Partition("shop.meter", 0), 7, "worker", None, state, SINCE, seconds, seconds, blockers
    )
    assert (holder.culprit and holder.culprit.pid) == culprit
    assert ("makes progress" in str(holder)) is (culprit is None)
    assert ("waits for PID 99 (psql at 10.0.0.9" in str(holder)) is bool(blockers)
