"""``manage.py writebehind status`` and ``drain``."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from io import StringIO
from threading import Event, Thread
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.db.models import F
from django.utils import timezone

from cachebackend import tasks, uuid7, writebehind
from cachebackend.counters import DrainCounts
from cachebackend.errors import RingCacheError
from cachebackend.models import ParkedWrite, WriteBehindCheckpoint
from cachebackend.monitoring import queue_figures, queues
from cachebackend.monitoring.faults import Fault
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.telemetry.totals import Total
from cachebackend.writebehind import partition_statuses, sessions
from cachebackend.writebehind.queue import project_queue
from cacheproject.services import Services
from tests.fix_services import restart_queue
from tests.integration.write_behind import LOCK_CHECKPOINTS, command, drain_all, one_partition
from tests.node_settings import node_settings
from tests.sessions import session
from tests.shop.models import Meter
from tests.waits import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
MOMENT = datetime(2026, 5, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
def meter() -> Meter:
    """A row."""
    return Meter.objects.create(level=5, seen=MOMENT)


def test_status_reports_and_drain_drains(meter: Meter) -> None:
    """``status`` and ``drain`` print text for people and JSON for scripts."""
    Meter.behind.update(meter.pk, count=F("count") + 2)
    report = command("status")
    assert (report["waiting"], report["well"], report["faults"]) == (1, True, [])
    out = StringIO()
    call_command("writebehind", "status", stdout=out)
    assert "1 changes are queued" in out.getvalue()
    assert command("drain") == {
        "batches": 1, "rows": 1, "missing": 0, "parked": 0,
        "waiting": 0, "left": 0, "partitions": {}, "unanswered": {},
    }  # fmt: skip
    assert command("status")["waiting"] == 0


def test_a_note_is_no_fault_of_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes that failed half an hour ago: the command exits with 0, and the page is well too."""
    note = Fault(FaultKind.WRITES_REFUSED, "3 writes failed, and none since.", is_note=True)
    monkeypatch.setattr(queues, "lost_faults", lambda *_: [note])
    report = command("status")
    assert (report["well"], report["faults"], report["notes"]) == (True, [], [note.message])
    out = StringIO()
    call_command("writebehind", "status", stdout=out)
    assert f"note: {note.message}" in out.getvalue()
    assert "not well" not in out.getvalue()


def test_status_shows_writes_of_rows_that_the_worker_does_not_see(meter: Meter) -> None:
    """They are lost: the rows do not exist, or row-level security hides them."""
    Meter.behind.update(uuid7(), count=F("count") + 2)
    drain_all()
    out = StringIO()
    call_command("writebehind", "status", stdout=out)
    assert "1 drained writes named rows that do not exist or that the worker may not see" in out.getvalue()


def test_the_queue_of_a_node_that_is_down_is_unknown(meter: Meter, services: Services) -> None:
    """A 0 would read as an empty queue. The rows that were drained are in Postgres."""
    Meter.behind.update(meter.pk, count=F("count") + 2)
    drain_all()
    services.kill("queue-a")
    out = StringIO()
    try:
        with pytest.raises(SystemExit):
            call_command("writebehind", "status", stdout=out)
        [node] = command("nodes", code=1)["nodes"]
    finally:
        restart_queue(services)
    assert (node["queues"], node["fields"], node["left"], node["done"]) == (None, None, None, False)
    [partition] = {status.partition for status in partition_statuses() if status.landed}
    [line] = [line for line in out.getvalue().splitlines() if line.startswith(f"{partition} ")]
    assert line.split()[2:] == ["unknown"] * 4 + ["1", "1", "0"]
    assert "on the nodes that answer, 0 changes are queued" in out.getvalue()


def test_status_names_the_session_that_holds_a_partition(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is frozen in its transaction keeps all others from draining."""
    monkeypatch.setattr(sessions, "IDLE_SECONDS", 0.0)
    Meter.behind.update(meter.pk, count=F("count") + 2)
    [drained] = drain_all()
    assert drained.rows == 1
    assert command("status")["locks"] == []
    with session(LOCK_CHECKPOINTS, application="worker 7"):
        [lock] = command("status")["locks"]
        assert (lock["application"], lock["state"]) == ("worker 7", "idle in transaction")
        assert lock["partition"].startswith("shop.meter:")
        out = StringIO()
        call_command("writebehind", "status", stdout=out)
        assert f"SELECT pg_terminate_backend({lock['pid']})" in out.getvalue()
    wait_until(lambda: command("status")["locks"] == [])


def test_status_names_what_a_drain_waits_for(meter: Meter) -> None:
    """The session that holds the lock of a row, with its query, without the values in it."""
    Meter.behind.update(meter.pk, count=F("count") + 2)
    drain_all()
    update = f"UPDATE shop_meter SET level = 4711 WHERE id = '{meter.pk}'"
    with session(update, application="psql") as blocker, session(LOCK_CHECKPOINTS) as drain:
        waiting = Thread(target=_update, args=(drain, meter.pk))
        waiting.start()
        wait_until(lambda: command("status")["locks"][0]["blockers"] != [])
        [lock] = command("status")["locks"]
        blocker.execute("ROLLBACK")
        waiting.join()
    [found] = lock["blockers"]
    assert (found["application"], found["state"]) == ("psql", "idle in transaction")
    assert found["query"] == "UPDATE shop_meter SET level = ? WHERE id = ?"


@pytest.mark.parametrize(
    "words",
    [["parked"], ["parked", "--model", "shop.gone"], ["retry", "--all"], ["discard", "--all", "--yes"]],
)
def test_actions_on_parked_writes_wait_briefly_for_the_database(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They name it, exit with 1, and change nothing."""
    ParkedWrite.objects.create(label="shop.meter", partition=0, batch=1, key="1", changes=b"", error="no")
    monkeypatch.setattr("cachebackend.management.parked_actions.READ_TIMEOUT", 0.2)
    with session("LOCK TABLE cachebackend_parkedwrite"):
        out = StringIO()
        with pytest.raises((SystemExit, CommandError)) as ended:
            call_command("writebehind", *words, stdout=out)
        assert "database 'default' d" in out.getvalue() + str(ended.value)
        assert "0 writes are parked" not in out.getvalue()
    assert ParkedWrite.objects.count() == 1


def test_drain_ends_in_time_while_the_database_hangs(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writes stay queued, and the database is named."""
    Meter.behind.update(meter.pk, count=F("count") + 2)
    released = Event()
    monkeypatch.setattr("cachebackend.management.database_work.CHECK_SECONDS", 0.01)
    monkeypatch.setattr("cachebackend.management.database_work.ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(writebehind, "drain", lambda _: released.wait(60))
    try:
        report = command("drain", "--timeout", "0.1", code=1)
    finally:
        released.set()
    [(_, error)] = report["partitions"].items()
    assert error.startswith("the database 'default' does not answer: ")
    assert list(report["unanswered"]) == ["database 'default'"]


def _update(cursor: Any, pk: object) -> None:
    cursor.execute("UPDATE shop_meter SET level = level + 1 WHERE id = %s", [pk])


@pytest.mark.parametrize("timeout", ["-1", "0"])
def test_a_timeout_of_drain_that_cannot_work_is_refused(timeout: str) -> None:
    """Nothing would be drained, or drained without end."""
    with pytest.raises(CommandError, match=f"--timeout must be a number of seconds above 0, not {timeout}"):
        call_command("writebehind", "drain", "--timeout", timeout)


def test_a_stopped_partition_does_not_stop_the_others(meter: Meter) -> None:
    """``drain`` drains the others, says why the one is stopped, and does not wait for it."""
    rows = Meter.objects.bulk_create([Meter() for _ in range(40)])
    Meter.behind.update_many({row.pk: {"count": F("count") + 1} for row in rows})
    drain_all()
    stopped = WriteBehindCheckpoint.objects.first()
    assert stopped is not None
    WriteBehindCheckpoint.objects.filter(pk=stopped.pk).update(batch=50)
    Meter.behind.update_many({row.pk: {"count": F("count") + 1} for row in rows})
    report = command("drain", code=1)
    [(name, error)] = report["partitions"].items()
    assert name == f"shop.meter:{stopped.partition}"
    assert "came back with an older file" in error
    assert report["rows"] == Meter.objects.filter(count=2).count() > 20


def test_drain_waits_through_a_lost_connection(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    """``drain`` waits until the backoff ends, and continues."""
    from cachebackend.management.commands import writebehind as commands
    from cachebackend.writebehind import drains, transactions
    from cachebackend.writebehind.backoff import Backoff
    from tests.interleavings.clocks import StepClock

    clock = StepClock("drain")
    monkeypatch.setattr(drains, "database_backoff", Backoff(clock))
    monkeypatch.setattr(
        commands.time, "sleep", lambda seconds: setattr(clock, "waited", clock.waited + seconds)
    )
    limit, broken = transactions.limit_times, []

    def break_off(using: str) -> None:
        limit(using)
        if not broken:
            broken.append(1)
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    monkeypatch.setattr(transactions, "limit_times", break_off)
    Meter.behind.update(meter.pk, count=F("count") + 2)
    report = command("drain")
    assert (broken, report["rows"], report["left"]) == ([1], 1, 0)
    assert Meter.objects.get(pk=meter.pk).count == 2


@pytest.mark.parametrize("dead", [pytest.param("postgres", marks=pytest.mark.own_connections), "queue-a"])
def test_status_reports_the_lag_while_a_server_is_down(meter: Meter, services: Services, dead: str) -> None:
    """It reports the part that answers, and that the rest is unknown."""
    Meter.behind.update(meter.pk, count=F("count") + 1)
    drain_all()
    Meter.behind.update(meter.pk, count=F("count") + 1)
    services.kill(dead)
    try:
        report = command("status", code=1)
        out = StringIO()
        with pytest.raises(SystemExit):
            call_command("writebehind", "status", stdout=out)
    finally:
        restart_queue(services) if dead == "queue-a" else services.restart(dead)
        connections.close_all()
    assert report["well"] is False
    assert any("partitions have stopped is not known" in fault for fault in report["faults"])
    assert "not well: " in out.getvalue()
    queued, drained = (
        ("waiting", "bytes", "oldest_seconds"),
        ("rows_landed", "rows_missing", "parked", "locks"),
    )
    unknown = drained if dead == "postgres" else queued
    assert {name for name in (*queued, *drained) if report[name] is None} == set(unknown)
    own = ("landed", "rows", "missing", "parked") if dead == "postgres" else ("fields", "bytes", "sealed")
    assert all(partition[name] is None for partition in report["partitions"] for name in own)
    assert report["stopped"] is None
    if dead == "postgres":
        assert "how many are parked is unknown" in out.getvalue()
        assert (report["waiting"], report["oldest_seconds"] > 0) == (1, True)
    assert command("status")["waiting"] == 1


def test_status_reports_a_queue_node_that_may_lose_writes(meter: Meter) -> None:
    """By its settings, with what to set instead."""
    node = project_queue().nodes[0]
    with node_settings(node, maxmemory_policy="allkeys-lru", appendonly="no"):
        [first, second] = command("status", code=1)["faults"]
    assert "set maxmemory-policy noeviction" in first
    assert "set appendonly yes" in second


def test_status_and_repair_say_why_writes_are_not_drained(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has stopped, so ``repair`` has nothing to do: no task ever ran, and then no worker took one."""
    from cachebackend.telemetry import heartbeat

    monkeypatch.setattr("cachebackend.monitoring.faults.MAX_WAITING_INTERVALS", -1)
    monkeypatch.setattr("cachebackend.monitoring.faults.MIN_WAITING_SECONDS", -1)
    Meter.behind.update(meter.pk, count=F("count") + 2)
    [reason] = command("status", code=1)["reasons"]
    assert (reason["kind"], reason["text"]) == (
        "no schedule",
        "no tick runs: No Celery worker runs, and no beat",
    )
    heartbeat.record_run("tick")
    [partition] = writebehind.request_drains([each for each, _ in writebehind.dirty_partitions()])
    [reason] = command("status", code=1)["reasons"]
    assert (reason["kind"], reason["partition"]) == ("no worker", str(partition))
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("writebehind", "repair", stdout=out)
    assert f"repair does not help here: {partition}: a drain was requested" in out.getvalue()
    [fault] = queue_figures().faults
    worker = "`celery -A yourproject worker -Q drains`"
    assert fault.way_out == f"Start a worker: {worker}."


def test_status_says_why_drains_fail(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last error of the drains is stored until a batch is drained, an error of any kind."""
    from cachebackend.telemetry import heartbeat

    monkeypatch.setattr("cachebackend.monitoring.faults.MAX_WAITING_INTERVALS", -1)
    monkeypatch.setattr("cachebackend.monitoring.faults.MIN_WAITING_SECONDS", -1)
    heartbeat.record_run("tick")
    with one_partition():
        Meter.behind.update(meter.pk, count=F("count") + 2)
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE shop_meter RENAME TO shop_elsewhere")
        try:
            assert tasks.drain("shop.meter", 0) == 0
            [reason] = command("status", code=1)["reasons"]
        finally:
            with connection.cursor() as cursor:
                cursor.execute("ALTER TABLE shop_elsewhere RENAME TO shop_meter")
        assert reason["kind"] == "failing"
        assert "shop_meter" in reason["text"]
        assert tasks.drain("shop.meter", 0) == 1
        assert [each.drain_error for each in writebehind.partition_statuses()] == [""]


@pytest.mark.parametrize(
    ("option", "figure"),
    [("--max-age=-1", "age"), ("--max-queued=0", "queued"), ("--max-parked=-1", "parked")],
)
def test_a_threshold_of_status_trips_its_exit_code(meter: Meter, option: str, figure: str) -> None:
    """So that a check of a monitoring system needs no JSON."""
    Meter.behind.update(meter.pk, count=F("count") + 2)
    assert command("status", "--max-queued=1", "--max-age=60")["exceeded"] == []
    assert command("status", option, code=1)["exceeded"] == [figure]
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("writebehind", "status", option, stdout=out)
    assert re.search(r"not well: .*more than -?\d (seconds|changes|writes)", out.getvalue())


def without_times(text: str) -> str:
    return re.sub(r"\b\d\d:\d\d\b", "a time", text)


def test_status_is_well_exactly_if_the_page_is(meter: Meter) -> None:
    """Retried writes are a fault after a moment only; parked and failed ones are one at once."""
    Meter.behind.update(meter.pk, count=F("count") + 2)
    values: dict[str, Any] = {
        "label": "shop.meter",
        "partition": 0,
        "batch": 1,
        "changes": b"",
        "error": "no",
    }
    ParkedWrite.objects.create(key="1", retry_at=timezone.now(), **values)
    assert queue_figures().faults == []
    report = command("status")
    assert (report["parked"], report["exceeded"], report["faults"]) == (1, [], [])
    ParkedWrite.objects.create(key="2", **values)
    assert command("status", code=1)["faults"] == [
        "1 write is parked because Postgres refused it: shop.meter: no."
    ]
    assert command("status", "--max-parked=1", code=1)["exceeded"] == ["parked"]
    ParkedWrite.objects.all().delete()
    node = project_queue().nodes[0]
    with node_settings(node, maxmemory="1mb"), pytest.raises(RingCacheError):
        Meter.behind.update(meter.pk, count=F("count") + 2)
    [fault] = queue_figures().faults
    message = without_times(fault.message)  # counts that are published in the next minute are counted in it
    assert [without_times(each) for each in command("status", code=1)["faults"]] == [message]
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("writebehind", "status", stdout=out)
    assert f"not well: {message}" in without_times(out.getvalue())


def test_retry_prints_no_values_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Postgres' error has the whole row in its details; the first line says what is wrong."""
    error = "null value violates a constraint\nDETAIL:  Failing row contains (secret)."
    write = ParkedWrite.objects.create(
        label="shop.meter", partition=0, batch=1, key="1", changes=b"", error=error
    )
    monkeypatch.setattr(writebehind, "retry", lambda *_: writebehind.Retried(remaining=[write]))
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("writebehind", "retry", "--all", stdout=out)
    assert "null value violates a constraint" in out.getvalue()
    assert "secret" not in out.getvalue()


def test_status_says_that_its_counts_are_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that stores them is away: a sum that falls without a word looks like lost writes."""
    total = Total(DrainCounts(accepted=1630), ("ring-c",))
    monkeypatch.setattr("cachebackend.management.writebehind_status.total_drains", lambda: total)
    out = StringIO()
    with suppress(SystemExit):
        call_command("writebehind", "status", stdout=out)
    assert (
        "1630 accepted, 0 written through, 0 dropped, 0 with an unknown outcome, 0 refused" in out.getvalue()
    )
    assert "At least: some counts are on ring-c, which does not answer." in out.getvalue()
