"""The sessions that block partitions."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cachebackend.invalidation.outbox_databases import Answers
from cachebackend.monitoring import blocking
from cachebackend.monitoring.blocking import BlockingSession, blocking_sessions
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind import Blocker, LockHolder, RowLock

FIRST, SECOND, THIRD = (Partition("shop.meter", number) for number in range(3))
LONG_AGO = datetime(2026, 5, 1, tzinfo=UTC)
PSQL = Blocker(99, "psql", None, "idle in transaction", LONG_AGO, "")


def test_the_writes_of_a_session_are_counted_over_all_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that all partitions have the same text; a drain that makes progress is left out."""
    answers = {
        "lock_holders": [
            LockHolder(FIRST, 5, "", None, "active", LONG_AGO, 9.0, 9.0, (PSQL,)),
            LockHolder(THIRD, 6, "", None, "active", LONG_AGO, 9.0, 9.0),
        ],
        "row_locks": [RowLock(FIRST, PSQL, 3, LONG_AGO), RowLock(SECOND, PSQL, 4, LONG_AGO)],
    }
    for name, found in answers.items():
        monkeypatch.setattr(f"cachebackend.writebehind.{name}", lambda using, late=(), found=found: found)
    monkeypatch.setattr("cachebackend.writebehind.databases", lambda: ["default"])
    monkeypatch.setattr(
        blocking, "ask_databases", lambda ask, timeout, aliases: Answers({"default": ask("default")}, {})
    )
    assert blocking_sessions([]) == dict.fromkeys((FIRST, SECOND), BlockingSession(PSQL, writes=7))


@pytest.mark.parametrize(("late", "found"), [([], 0), ([SECOND], 1)])
def test_writes_that_have_just_been_set_aside_count_if_a_partition_is_late(
    monkeypatch: pytest.MonkeyPatch, late: list[Partition], found: int
) -> None:
    """So that the session stays named when the drain that waited for it has set them aside."""
    locks = [RowLock(FIRST, PSQL, 3, datetime.now(UTC))]
    monkeypatch.setattr("cachebackend.writebehind.lock_holders", lambda using: [])
    monkeypatch.setattr("cachebackend.writebehind.row_locks", lambda using, late=(): locks)
    monkeypatch.setattr("cachebackend.writebehind.databases", lambda: ["default"])
    monkeypatch.setattr(
        blocking, "ask_databases", lambda ask, timeout, aliases: Answers({"default": ask("default")}, {})
    )
    assert len(blocking_sessions(late)) == found
