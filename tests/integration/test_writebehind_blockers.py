"""The session that keeps queued writes from being drained: it is named, and never one of our own drains."""

from __future__ import annotations

from functools import partial
from threading import Thread
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.db.models import F

from cachebackend.monitoring import blocking, reasons
from cachebackend.monitoring.queues import queue_figures
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.writebehind import limits, partition_statuses
from tests.integration.write_behind import LOCK_CHECKPOINTS, command, drain_all, one_partition
from tests.sessions import session
from tests.shop.models import Meter
from tests.waits import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain waits 50 ms for a lock, and a write that waits for any time is late."""
    monkeypatch.setattr(limits, "LOCK_MS", 50)
    monkeypatch.setattr(blocking, "RETRIED_SECONDS", 0.0)


@pytest.fixture
def meter() -> Meter:
    """A row with a checkpoint, whose next write is queued."""
    row = Meter.objects.create()
    Meter.behind.update(row.pk, count=F("count") + 1)
    drain_all()
    Meter.behind.update(row.pk, count=F("count") + 1)
    return row


def pid_of(cursor: Any) -> int:
    return int(cursor.connection.info.backend_pid)


PARKED = "SELECT * FROM cachebackend_parkedwrite FOR UPDATE"


@pytest.mark.own_connections
def test_the_root_of_a_chain_of_waiting_sessions_is_named(meter: Meter) -> None:
    """A drain waits for a session that waits itself: ending that one would free nothing."""
    update = f"UPDATE shop_meter SET level = 1 WHERE id = '{meter.pk}'"
    with (
        session(update, application="psql") as culprit,
        session(PARKED) as retry,
        session(LOCK_CHECKPOINTS) as drain,
    ):
        waiting = []
        for each in (retry, drain):
            waiting.append(Thread(target=each.execute, args=(update,)))
            waiting[-1].start()
            wait_until(partial(_waits, pid_of(each)))
        [lock] = command("status")["locks"]
        culprit.execute("ROLLBACK")
        waiting[0].join()
        retry.execute("ROLLBACK")
        waiting[1].join()
    assert [each["application"] for each in lock["blockers"]] == ["psql"]


def _waits(pid: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_blocking_pids(%s) <> '{}'", [pid])
        return bool(cursor.fetchone()[0])


@pytest.mark.own_connections
@pytest.mark.parametrize(
    "statements",
    [
        ["SELECT 1 FROM shop_meter FOR UPDATE"],
        ["SAVEPOINT a", "SELECT 1 FROM shop_meter FOR UPDATE", "RELEASE a"],
    ],
)
def test_a_session_that_holds_rows_is_named_between_two_tries(meter: Meter, statements: list[str]) -> None:
    """No drain waits then. All that follows from it is shown below it, and the way out names its PID."""
    with one_partition(), session(*statements, application="psql") as culprit:
        assert [each.parked + each.waiting for each in drain_all()] == [1]
        [fault] = _blocked()
        pid = pid_of(culprit)
        assert fault.message.startswith(f"PID {pid} (psql at ")
        assert "holds rows that 1 queued write needs" in fault.message
        assert f"SELECT pg_terminate_backend({pid})" in fault.way_out
        assert fault.since is not None
    assert _blocked() == []


@pytest.mark.own_connections
@pytest.mark.parametrize("mode", ["SHARE", "ACCESS EXCLUSIVE"])
def test_a_session_that_holds_a_table_is_named_between_two_tries(
    meter: Meter, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """No write is set aside then: the drain itself fails."""
    monkeypatch.setattr(reasons, "max_waiting_age", lambda options: 0.0)
    with session(f"LOCK TABLE shop_meter IN {mode} MODE", application="migration") as culprit:
        with pytest.raises(DatabaseError):
            drain_all()
        [fault] = _blocked()
        assert fault.message.startswith(f"PID {pid_of(culprit)} (migration at ")
        assert "holds rows that queued writes need" in fault.message


def test_a_drain_that_makes_progress_is_not_named(meter: Meter) -> None:
    """It holds the lock of its partition, and may be between two statements."""
    with session(LOCK_CHECKPOINTS):
        assert reasons.find_reasons(partition_statuses()) == []
        assert "pg_terminate_backend" not in " ".join(map(str, command("status")["locks"]))


def _blocked() -> list[Any]:
    return [each for each in queue_figures().faults if each.kind is FaultKind.PARTITION_BLOCKED]
