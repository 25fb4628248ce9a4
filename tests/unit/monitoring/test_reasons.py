"""Why queued writes of a partition do not reach the database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import override_settings

from cachebackend.monitoring.blocking import BlockingSession
from cachebackend.monitoring.processes import ProcessFigures
from cachebackend.monitoring.reasons import Facts, Kind, reasons_of, summaries
from cachebackend.options import WriteBehindOptions
from cachebackend.protocol.queue import Partition
from cachebackend.telemetry.processes import Process
from cachebackend.writebehind import Blocker, Fault, PartitionStatus
from cachebackend.writebehind.checkpoints import Mismatch

PARTITION, GONE = Partition("shop.meter", 0), Partition("shop.gone", 1)
NOW = 1_000_000.0
LATE = PartitionStatus(PARTITION, "queue-a", fields=3, oldest_seconds=60.0)
SESSION = Blocker(
    7, "psql", "10.0.0.9", "idle in transaction", datetime.fromtimestamp(NOW - 50, UTC), "SELECT ?"
)
LOCK = BlockingSession(SESSION, holds_partition=True)
STOPPED = Fault(PARTITION, Mismatch.QUEUE_IS_GONE, 5, None, (), "a", "default", NOW - 70)
WELL = Facts([LATE], last_tick=NOW - 1)


def found(facts: Facts) -> list[tuple[Partition, Kind, float | None]]:
    reasons = list(reasons_of(facts, WriteBehindOptions(), NOW))
    assert all(reason.way_out and str(reason.partition) in str(reason) for reason in reasons)
    return [(reason.partition, reason.kind, reason.since) for reason in reasons]


@pytest.mark.parametrize(
    ("facts", "kind", "since"),
    [
        (
            {"stopped": {PARTITION: STOPPED}, "locks": {PARTITION: LOCK}},
            Kind.STOPPED,
            NOW - 70,
        ),
        ({"locks": {PARTITION: LOCK}, "requested": {PARTITION}}, Kind.BLOCKED, NOW - 50),
        ({"refusing": {"queue-a": "is full"}, "locks": {PARTITION: LOCK}}, Kind.REFUSING, NOW - 60),
        ({"refusing": {"queue-b": "is full"}}, Kind.SLOW, NOW - 60),
        ({"versions": {PARTITION: "it waits"}, "last_tick": 0.0}, Kind.NEWER_CODE, NOW - 60),
        ({"last_tick": NOW - 40}, Kind.NO_SCHEDULE, NOW - 40),
        ({"last_tick": 0.0, "requested": {PARTITION}}, Kind.NO_SCHEDULE, None),
        ({"requested": {PARTITION}}, Kind.NO_WORKER, NOW - 60),
        ({"requested": {PARTITION}, "last_tick": None}, Kind.NO_WORKER, NOW - 60),
        ({}, Kind.SLOW, NOW - 60),
    ],
)
def test_a_late_partition_has_one_reason(facts: dict[str, Any], kind: Kind, since: float | None) -> None:
    """The one that a person must remove first; an unknown fact does not count."""
    assert found(replace(WELL, **facts)) == [(PARTITION, kind, since)]


@pytest.mark.parametrize(("seconds", "kind"), [(5, Kind.FAILING), (500, Kind.NO_WORKER)])
def test_a_drain_that_failed_lately_is_the_reason(seconds: float, kind: Kind) -> None:
    """With its error; after a while without a failure no drain runs at all."""
    status = replace(LATE, drain_error="permission denied", failed_at=NOW - seconds)
    facts = replace(WELL, statuses=[status], requested={PARTITION})
    assert found(facts) == [(PARTITION, kind, NOW - 60)]
    [reason] = reasons_of(facts, WriteBehindOptions(), NOW)
    assert ("permission denied" in str(reason)) is (kind is Kind.FAILING)


def process(kind: str, **named: Any) -> Process:
    return Process("id", kind, "h", 7, "celery", "", NOW - 99, {}, **named)


@pytest.mark.parametrize(
    ("facts", "processes", "kind", "text"),
    [
        (
            {"last_tick": 0.0},
            [process("worker")],
            Kind.NO_SCHEDULE,
            "no tick runs: A worker runs (worker 7 on h), but beat does not",
        ),
        (
            {"last_tick": 0.0},
            [process("beat")],
            Kind.NO_SCHEDULE,
            "no tick runs: Beat runs (beat 7 on h), but no worker does",
        ),
        (
            {"requested": {PARTITION}},
            [process("worker", queues=["periodic"], routes={"drain": "mine"})],
            Kind.NO_WORKER,
            "a drain was requested, and no worker has begun it: no worker serves the queue 'mine'",
        ),
        (
            {},
            [process("worker", queues=["periodic"], routes={"drain": "mine"})],
            Kind.NO_WORKER,
            "no worker serves the queue 'mine'",
        ),
        (
            {"requested": {PARTITION}},
            [process("worker", drains=[("shop.gone:1", NOW - 30)])],
            Kind.NO_WORKER,
            "a drain was requested, and no worker has begun it: worker 7 on h drains shop.gone:1 since ",
        ),
        (
            {"databases": {PARTITION: "default"}},
            [process("worker", waits=[("default", 16.0, NOW)])],
            Kind.WAITING,
            "the workers wait 16 s before they try the database 'default' again",
        ),
        (
            {},
            [process("worker", drains=[("shop.meter:0", NOW - 30)])],
            Kind.SLOW,
            "worker 7 on h drains it since ",
        ),
    ],
)
def test_the_processes_of_the_site_say_more(
    facts: dict[str, Any], processes: list[Process], kind: Kind, text: str
) -> None:
    """Which of worker and beat is missing, which queue no worker serves, and what the workers do."""
    [reason] = reasons_of(
        replace(WELL, **facts, processes=ProcessFigures(processes)), WriteBehindOptions(), NOW
    )
    assert reason.kind is kind
    assert reason.text.startswith(text)
    assert not reason.text.endswith(": ")


@pytest.mark.parametrize(
    ("lock", "text"),
    [
        (LOCK, "holds the lock of the partition (the drain of worker 7 on h, since "),
        (BlockingSession(SESSION), "holds rows that queued writes need"),
        (BlockingSession(SESSION, writes=1), "holds rows that 1 queued write needs"),
        (BlockingSession(SESSION, writes=40), "holds rows that 40 queued writes need"),
    ],
)
def test_a_session_that_blocks_is_named(lock: BlockingSession, text: str) -> None:
    """With what it does; the process is named whose drain it is, if it holds the lock of the partition."""
    processes = ProcessFigures([process("worker", drains=[("shop.meter:0", NOW - 51)])])
    [reason] = reasons_of(
        replace(WELL, locks={PARTITION: lock}, processes=processes), WriteBehindOptions(), NOW
    )
    assert reason.text.startswith("PID 7 (psql at 10.0.0.9, idle in transaction since ")
    assert f": SELECT ?) {text}" in reason.text
    assert reason.way_out == "end that session: `SELECT pg_terminate_backend(7)`"


def test_a_drain_that_waits_for_the_lock_is_not_taken_for_its_holder() -> None:
    """It began after the transaction of the session that holds the lock."""
    processes = ProcessFigures([process("worker", drains=[("shop.meter:0", NOW - 30)])])
    facts = replace(WELL, locks={PARTITION: LOCK}, processes=processes)
    [reason] = reasons_of(facts, WriteBehindOptions(), NOW)
    assert reason.text.endswith(" holds the lock of the partition")


def test_writes_that_wait_for_a_session_are_a_reason_though_the_queue_is_empty() -> None:
    """They were set aside."""
    status = PartitionStatus(PARTITION, "queue-a", oldest_seconds=0.0)
    facts = Facts([status], locks={PARTITION: BlockingSession(SESSION, writes=3)})
    assert found(facts) == [(PARTITION, Kind.BLOCKED, NOW - 50)]


@pytest.mark.parametrize(("lock", "is_blocked"), [(LOCK, True), (BlockingSession(SESSION), False)])
def test_a_locked_partition_need_not_be_late(lock: BlockingSession, is_blocked: bool) -> None:
    """Nothing else can drain it. Rows that its writes need may be free at its next drain."""
    status = PartitionStatus(PARTITION, "queue-a", fields=3, oldest_seconds=6.0)
    facts = Facts([status], locks={PARTITION: lock}, last_tick=NOW)
    assert found(facts) == ([(PARTITION, Kind.BLOCKED, NOW - 50)] if is_blocked else [])


@pytest.mark.parametrize("mismatch", list(Mismatch))
def test_a_stopped_partition_says_what_is_lost_and_what_to_run(mismatch: Mismatch) -> None:
    """For each way in which queue and database contradict each other."""
    stopped = {PARTITION: replace(STOPPED, mismatch=mismatch)}
    [reason] = reasons_of(replace(WELL, stopped=stopped), WriteBehindOptions(), NOW)
    assert reason.text.startswith(str(mismatch))
    assert "`manage.py writebehind repair --keep`" in reason.way_out


def test_a_partition_that_is_drained_has_none() -> None:
    """A drain that runs holds the lock, and a request is pending until it begins."""
    status = PartitionStatus(PARTITION, "queue-a", fields=3, oldest_seconds=1.0)
    facts = Facts([status], locks={PARTITION: LOCK}, requested={PARTITION}, last_tick=NOW)
    assert found(facts) == []


def test_servers_and_models_that_are_missing() -> None:
    """The queue node or the database does not answer, or the project no longer has the model."""
    for name in ("is_queue_seen", "is_database_seen"):
        status = replace(LATE, **{name: False}, error="it does not answer")
        assert found(Facts([status])) == [(PARTITION, Kind.MISSING, None)]
    assert found(Facts(removed=[GONE])) == [(GONE, Kind.REMOVED, None)]


def test_partitions_whose_node_takes_no_writes() -> None:
    """The number of partitions is being changed; one that stopped has that reason."""
    closed = Facts([LATE], stopped={GONE: STOPPED}, closed=[PARTITION, GONE])
    assert found(closed) == [(GONE, Kind.STOPPED, NOW - 70), (PARTITION, Kind.CLOSED, None)]


def test_reasons_that_are_the_same_are_one_sentence() -> None:
    """With the first partition that has it."""
    reasons = reasons_of(Facts(closed=[PARTITION, GONE], stopped={}), WriteBehindOptions(), NOW)
    [line] = summaries(reasons)
    assert line.startswith("shop.meter:0: its node takes no writes")
    assert line.endswith("(and 1 more partition)")


def test_parked_writes_are_a_reason_of_their_own() -> None:
    """Beside the one why the rest is late."""
    parked = replace(LATE, parked=2, parked_since=NOW - 90)
    assert found(Facts([parked, parked], last_tick=NOW)) == [
        (PARTITION, Kind.SLOW, NOW - 60), (PARTITION, Kind.PARKED, NOW - 90),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("routes", "queue"),
    [
        ({"cachebackend.tasks.drain": {"queue": "slow"}}, "slow"),
        ({"cachebackend.tasks.drain": {"exchange": "e"}}, "drains"),
        ("shop.routes.route", "drains"),
    ],
)
def test_the_way_out_names_the_queue_of_the_settings(routes: Any, queue: str) -> None:
    """A worker that serves another queue does not help."""
    with override_settings(CELERY_TASK_ROUTES=routes):
        [reason] = reasons_of(replace(WELL, requested={PARTITION}), WriteBehindOptions(), NOW)
    assert reason.way_out == f"start a worker: `celery -A yourproject worker -Q {queue}`"
