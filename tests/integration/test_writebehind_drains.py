"""Drains that meet older queues, lost replies, rows that are refused, and nodes that fail."""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError, connection
from django.db.models import F
from django.test import override_settings

from cachebackend import drivers, protocol, tasks, writebehind
from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.effects import ScriptCall
from cachebackend.errors import (
    NodeUnavailableError,
    WriteBehindError,
    WriteBehindPartialError,
    WriteBehindStoppedError,
    WriteBehindUnknownError,
)
from cachebackend.models import ParkedWrite
from cachebackend.protocol.queue import Folded, Partition
from cachebackend.protocol.queue import folding as fold_module
from cachebackend.writebehind import apply, bisection, drains, seals
from cachebackend.writebehind.backoff import Backoff
from cachebackend.writebehind.queue import project_queue
from cacheproject.services import Services
from tests.fix_services import flush, restart_queue
from tests.integration.write_behind import command, drain_all, one_partition, restore_keys, saved_keys
from tests.node_settings import node_settings
from tests.shop.models import Meter

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
PARTITION = Partition("shop.meter", 0)


@pytest.fixture
def meter() -> Meter:
    """A row."""
    return Meter.objects.create(level=5)


def add_one(*meters: Meter) -> None:
    Meter.behind.update_many({meter.pk: {"count": F("count") + 1} for meter in meters})


def count_of(meter: Meter) -> int:
    return Meter.objects.get(pk=meter.pk).count


def tick() -> list[writebehind.Drained]:
    """Seal and drain, as the workers do every second."""
    return [writebehind.drain(partition) for partition in writebehind.seal_dirty()]


def seal_open_batch() -> None:
    client = project_queue()
    [state] = client.run(protocol.queue.queue_states(client.context, [PARTITION]))[PARTITION].values()
    assert isinstance(state, protocol.queue.QueueState)
    client.run(protocol.queue.seal(client.context, state, PARTITION, state.open_batch))


def meta() -> dict[bytes, bytes]:
    flat: list[bytes] = project_queue().nodes[0].call((b"HGETALL", project_queue().context.meta(PARTITION)))
    return dict(zip(flat[::2], flat[1::2], strict=True))


# Queues with older data


@pytest.mark.parametrize(("choice", "total"), [("--keep", 45), ("--drop", 4)])
def test_an_older_queue_stays_stopped_after_any_number_of_writes(
    meter: Meter, choice: str, total: int
) -> None:
    """Its numbers pass the checkpoint's, but its seals differ, and a person decides about all of it."""
    with one_partition(batch_rows=1):
        add_one(meter)
        older = saved_keys()
        drain_all()
        for _ in range(3):
            add_one(meter)
            drain_all()
        restore_keys(older)
        others = Meter.objects.bulk_create([Meter() for _ in range(40)])
        for other in others:
            add_one(other)
            with pytest.raises(WriteBehindStoppedError, match="came back with an older file"):
                tick()
        assert int(meta()[b"open"]) > 5
        assert command("status", code=1)["stopped"] == ["shop.meter:0"]
        command("repair", choice)
        tick()
        add_one(meter)
        tick()
        assert sum(Meter.objects.values_list("count", flat=True)) == total + 1
        assert command("repair") == {"faults": [], "unanswered": {}}


# Rows that cannot be applied


def queue_raw(row: Meter, name: bytes, value: bytes) -> None:
    """Put a field into the open batch that no call queues, as an older version of the project may have."""
    field = b"%b\0%b" % (row.pk.hex.encode(), name)
    project_queue().nodes[0].call((b"HSET", project_queue().context.batch(PARTITION, 1), field, value))


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        (b"label\0p", b"=a\0b", "NUL"),
        (b"tag_id\0p", b"=%d" % 2**63, "out of range"),
        (b"label\0p", b"=%b" % (b"x" * 51), "too long"),
    ],
)
def test_a_value_that_cannot_be_written_parks_its_row_alone(
    meter: Meter, name: bytes, value: bytes, error: str
) -> None:
    """Whether psycopg or the statement refuses it. A column that is gone may be newer: it waits."""
    other = Meter.objects.create()
    with one_partition():
        add_one(meter, other)
        queue_raw(meter, name, value)
        assert [(each.rows, each.parked) for each in drain_all()] == [(1, 1)]
        [parked] = ParkedWrite.objects.all()
        assert error in parked.error
        assert command("retry", "--all", code=1) == {"landed": 0, "missing": 0, "left": 1, "unanswered": {}}
    assert (count_of(meter), count_of(other)) == (0, 1)


def test_a_value_too_large_for_an_index_parks_its_row_alone(meter: Meter) -> None:
    """Postgres reports it as a program limit, not as bad data."""
    other = Meter.objects.create()
    with connection.cursor() as cursor:
        cursor.execute("CREATE INDEX large ON shop_meter ((data::text))")
    noise = random.Random(1)
    try:
        with one_partition():
            Meter.behind.update(meter.pk, data="".join(chr(noise.randrange(35, 91)) for _ in range(20_000)))
            add_one(other)
            assert [(each.rows, each.parked) for each in drain_all()] == [(1, 1)]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP INDEX large")
    assert "maximum size" in ParkedWrite.objects.get().error


# Statements


def test_a_drain_leaves_no_table_in_its_session() -> None:
    """A pooled session that drains many shapes keeps no temporary table, which every commit would empty."""
    meters = Meter.objects.bulk_create([Meter(level=1) for _ in range(3)])
    with one_partition():
        Meter.behind.update(meters[0].pk, count=F("count") + 1)
        Meter.behind.update(meters[1].pk, count=F("count") + 1, label='{"a",\\b} NULL')
        Meter.behind.update(meters[2].pk, label="", level=None, data={"a": ['"', "\\", None]})
        [drained] = drain_all()
    assert (drained.rows, drained.parked) == (3, 0)
    assert Meter.objects.get(pk=meters[1].pk).label == '{"a",\\b} NULL'
    last = Meter.objects.get(pk=meters[2].pk)
    assert (last.label, last.level, last.data) == ("", None, {"a": ['"', "\\", None]})
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relpersistence = 't' AND relname LIKE 'writebehind%'"
        )
        assert cursor.fetchall() == []


def test_large_values_are_sent_in_several_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Postgres limits the size of a statement's parameters."""
    monkeypatch.setattr(apply, "MAX_BYTES", 100)
    meters = Meter.objects.bulk_create([Meter() for _ in range(9)])
    with one_partition():
        Meter.behind.update_many({meter.pk: {"label": "x" * 40} for meter in meters})
        [drained] = drain_all()
    assert (drained.rows, set(Meter.objects.values_list("label", flat=True))) == (9, {"x" * 40})


# Lost replies, and queues that grow


def test_lost_closes_are_repeated(meter: Meter) -> None:
    """A node that lost its last second holds drained batches again: they are deleted and not applied."""
    others = Meter.objects.bulk_create([Meter() for _ in range(4)])
    with one_partition():
        for other in others:
            add_one(other)
            seal_open_batch()
        before = saved_keys()
        writebehind.drain(PARTITION, max_batches=3)
        restore_keys(before)
        add_one(meter)
        tick()
        assert [count_of(each) for each in (meter, *others)] == [1] * 5
        assert command("status")["waiting"] == 0
        assert (int(meta()[b"done"]), int(meta()[b"sealed"])) == (5, 0)
        context = project_queue().context
        assert set(saved_keys()) == {context.meta(PARTITION), context.count_keys[0]}


def test_a_late_close_leaves_another_queue_alone(meter: Meter) -> None:
    """A slow worker closes a batch number that a new queue has reached meanwhile: nothing is deleted."""
    client = project_queue()
    with one_partition(durability="memory"):
        add_one(meter)
        [old] = client.run(protocol.queue.queue_states(client.context, [PARTITION]))[PARTITION].values()
        assert isinstance(old, protocol.queue.QueueState)
        client.nodes[0].call((b"FLUSHALL",))
        add_one(meter)
        assert client.run(protocol.queue.close(client.context, old, PARTITION, range(1, 2), "")) is False
        with pytest.raises(WriteBehindError, match="was emptied while it was drained"):
            client.run(protocol.queue.seal(client.context, old, PARTITION, 1))
        drain_all()
    assert count_of(meter) == 1


def test_a_late_close_leaves_no_drained_partition_dirty(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker waits before it closes its batch; another one drains the next batch meanwhile."""
    close = protocol.queue.close
    late: list[Any] = []
    with one_partition():
        add_one(meter)
        with monkeypatch.context() as patch:
            patch.setattr(protocol.queue, "close", lambda *arguments: iter(late.append(arguments) or ()))
            writebehind.drain(PARTITION)
        add_one(meter)
        writebehind.drain(PARTITION)
        project_queue().run(close(*late[0]))
        assert writebehind.dirty_partitions() == []
    assert count_of(meter) == 2


def test_without_drains_the_queue_grows_with_rows_and_not_with_ticks() -> None:
    """One batch is sealed and waits; all later writes fold into the open one."""
    meters = Meter.objects.bulk_create([Meter() for _ in range(20)])
    with one_partition():
        for _ in range(30):
            add_one(*meters)
            writebehind.seal_dirty()
        assert command("status")["waiting"] == 40
        while tick():
            pass
    assert set(Meter.objects.values_list("count", flat=True)) == {30}


def test_without_drains_the_queue_grows_with_rows_and_not_with_writes_past_batch_rows() -> None:
    """Each batch that waits doubles the size of the next, until one holds a field for each row."""
    meters = Meter.objects.bulk_create([Meter() for _ in range(60)])
    with one_partition(batch_rows=5):
        waiting = []
        for _ in range(12):
            add_one(*meters)
            waiting.append(command("status")["waiting"])
        assert waiting[-1] == waiting[-2] < 3 * len(meters)
        while tick():
            pass
    assert set(Meter.objects.values_list("count", flat=True)) == {12}


@pytest.mark.parametrize("run", [writebehind.seal_dirty, lambda: tasks.drain("shop.meter", 0)])
def test_an_outage_of_the_database_is_logged_once(
    meter: Meter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, run: Callable[[], object]
) -> None:
    """By the process, however many ticks and drains fail meanwhile."""

    def refuse(*_: object, **__: object) -> None:
        message = "connection refused"
        raise OperationalError(message)

    backoff = Backoff(SYSTEM_CLOCK)
    for module, name in ((drains, "limited_transaction"), (seals, "store_samples")):
        monkeypatch.setattr(module, name, refuse)
        monkeypatch.setattr(module, "database_backoff", backoff)
        monkeypatch.setattr(module, "is_unreachable", lambda *_: True)
    with one_partition():
        add_one(meter)
        for _ in range(2):
            run()
    assert [each.getMessage() for each in caplog.records] == [
        "the database 'default' is unreachable; writes stay in the queue: connection refused"
    ]


def test_the_task_does_not_wait_for_the_seal_of_a_batch_that_was_open_when_it_began(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its seal may take a second to reach the disk; the next tick seals and syncs all batches together."""
    with one_partition():
        add_one(meter)
        [partition] = writebehind.seal_dirty()
        add_one(meter)
        with monkeypatch.context() as patch:
            patch.setattr(
                protocol.queue, "sync", lambda *_: pytest.fail("the drain waits for the node's disk")
            )
            tasks.drain(partition.label, partition.number)
        assert count_of(meter) == 1
        tick()
    assert count_of(meter) == 2


def test_a_tick_waits_for_the_disks_of_all_nodes_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch, new_node: str
) -> None:
    """One after another, nodes that sync once a second would take a second each."""
    flush(new_node)
    meters = Meter.objects.bulk_create([Meter() for _ in range(60)])
    scatters: list[set[int]] = []
    scatter = drivers._scatter

    def look(requests: Any, *others: Any) -> Any:
        called = [
            (node, command.script.name) for node, command in requests if isinstance(command, ScriptCall)
        ]
        scatters.append({node for node, name in called if name == "sync"})
        return scatter(requests, *others)

    monkeypatch.setattr(drivers, "_scatter", look)
    with override_settings(WRITE_BEHIND={"nodes": f"{settings.WRITE_BEHIND['nodes']},{new_node}"}):
        add_one(*meters)
        partitions = writebehind.seal_dirty()
        assert [nodes for nodes in scatters if nodes] == [{0, 1}]
        for partition in partitions:
            writebehind.drain(partition)
    assert set(Meter.objects.values_list("count", flat=True)) == {1}


#: The error of a node without an append-only file, and of a node that cannot report its file.
NO_FILE = re.compile(r"turn its append-only file on|must be Redis 7\.2 or later")


@pytest.fixture
def second_node(services: Services) -> str:
    """A node without an append-only file, besides the queue node."""
    return f"{services.ring_urls[0].partition('?')[0]}?name=queue-b"


@pytest.mark.ring_of_nodes
def test_a_node_without_a_file_stops_its_own_partitions_only(
    second_node: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are sealed and drained; the log says what is wrong."""
    meters = Meter.objects.bulk_create([Meter() for _ in range(60)])
    with override_settings(WRITE_BEHIND={"nodes": f"{settings.WRITE_BEHIND['nodes']},{second_node}"}):
        add_one(*meters)
        ring = project_queue().ring
        of_first = [n for n in range(8) if ring.owner(Partition("shop.meter", n).name) == 0]
        assert 0 < len(of_first) < 8
        assert sorted(partition.number for partition in writebehind.seal_dirty()) == of_first
        tick()
        left = [partition.number for partition, _ in writebehind.dirty_partitions()]
    assert sorted(left + of_first) == list(range(8))
    assert NO_FILE.search(caplog.text)


@pytest.mark.ring_of_nodes
def test_a_batch_is_drained_only_when_its_seal_is_on_disk(meter: Meter, second_node: str) -> None:
    """Otherwise the node could come back with the batch open, and take writes that are never drained."""
    with override_settings(WRITE_BEHIND={"nodes": [second_node], "partitions": 1}):
        add_one(meter)
        with pytest.raises(WriteBehindError, match=NO_FILE):
            writebehind.drain(PARTITION)
    assert count_of(meter) == 0


# Limits


def test_the_limits_hold_within_one_call() -> None:
    """For any number of rows: batches are sealed at their size, and rows above the limit are refused."""
    meters = Meter.objects.bulk_create([Meter() for _ in range(60)])
    with one_partition(batch_rows=10, high_water=40):
        with pytest.raises(WriteBehindPartialError) as caught:
            add_one(*meters)
        assert list(caught.value.errors) == [meter.pk for meter in meters[40:]]
        assert command("status", code=1)["waiting"] == 40  # writes were refused
        drained = writebehind.drain(PARTITION)
    assert (drained.batches, drained.rows) == (3, 40)  # of 10, 20 and 10 rows
    assert set(Meter.objects.filter(pk__in=[m.pk for m in meters[:40]]).values_list("count", flat=True)) == {
        1
    }


def test_rows_queued_before_a_node_failed_are_not_reported_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that takes several round trips may fail in the second; the rows of the first stay queued."""
    meters = Meter.objects.bulk_create([Meter() for _ in range(60)])
    fold_result = fold_module.fold_result
    turns: list[int] = []

    def fail_later(*arguments: Any) -> Folded | None:
        found = fold_result(*arguments)
        if found is fold_module.WITHOUT_COUNT:
            return found
        turns.append(1)
        return found if len(turns) == 1 else Folded(error=WriteBehindUnknownError("lost"))

    monkeypatch.setattr(fold_module, "fold_result", fail_later)
    with one_partition(batch_rows=10), pytest.raises(WriteBehindPartialError) as caught:
        add_one(*meters)
    assert list(caught.value.errors) == [meter.pk for meter in meters[30:]]


def test_a_node_without_free_memory_cannot_serve(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so, for an addition too, and not that the sum is too large; the policy applies."""
    monkeypatch.setattr(Meter.behind.rows, "_counters", ("count",))
    monkeypatch.setattr(Meter.behind.rows, "updates_only", True)
    node = project_queue().nodes[0]
    add_one(meter)
    with node_settings(node, maxmemory="1"):
        with one_partition(), pytest.raises(NodeUnavailableError, match="node 'queue-a' cannot serve: OOM"):
            Meter.behind.update(meter.pk, count=F("count") + 1)
        with one_partition(on_unavailable="write_through"):
            Meter.behind.update(meter.pk, count=F("count") + 5)
    assert count_of(meter) == 5


@pytest.mark.parametrize("durability", ["memory", "everysec", "fsync"])
def test_a_node_over_its_memory_is_drained(meter: Meter, durability: str) -> None:
    """Otherwise it could never free the memory; what is sealed, and what is not, is drained."""
    node = project_queue().nodes[0]
    with one_partition(durability=durability):
        add_one(meter)
        writebehind.seal_dirty()
        add_one(meter)
        with node_settings(node, maxmemory="1"):
            tick()
            tick()
            assert writebehind.dirty_partitions() == []
    assert count_of(meter) == 2
    assert set(saved_keys()) == {
        project_queue().context.meta(PARTITION),
        project_queue().context.count_keys[0],
    }


def test_the_first_write_after_a_restart_is_queued(meter: Meter, services: Services) -> None:
    """The kept connection was closed by the node, which is noticed before the write is sent."""
    add_one(meter)
    restart_queue(services)
    add_one(meter)
    assert Meter.behind.get(meter.pk).count == 2


def test_bad_rows_that_bisection_has_no_time_for_are_parked_together(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is drained in any case; a retry applies the rows that were fine."""
    monkeypatch.setattr(bisection, "BISECTION_SECONDS", 0.0)
    others = Meter.objects.bulk_create([Meter() for _ in range(9)])
    with one_partition():
        add_one(meter, *others)
        queue_raw(meter, b"label\0p", b"=%b" % (b"x" * 51))
        assert [(each.rows, each.parked) for each in drain_all()] == [(0, 10)]
        assert "One of 10 rows" in ParkedWrite.objects.all()[0].error
        assert command("retry", "--all", code=1) == {"landed": 9, "missing": 0, "left": 1, "unanswered": {}}
        assert command("status", code=1)["waiting"] == 0
    assert (count_of(meter), {count_of(other) for other in others}) == (0, {1})


@pytest.fixture
def order_of_updates() -> Iterator[Callable[[], list[uuid.UUID]]]:
    """Return the keys of meters in the order in which Postgres updated them."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE came (at serial, pk uuid);"
            "CREATE FUNCTION came() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "INSERT INTO came (pk) VALUES (NEW.id); RETURN NEW; END $$;"
            "CREATE TRIGGER came BEFORE UPDATE ON shop_meter FOR EACH ROW EXECUTE FUNCTION came()"
        )

    def updated() -> list[uuid.UUID]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pk FROM came ORDER BY at")
            return [pk for (pk,) in cursor.fetchall()]

    yield updated
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER came ON shop_meter; DROP FUNCTION came; DROP TABLE came")


def test_rows_are_locked_in_the_order_of_their_keys(
    order_of_updates: Callable[[], list[uuid.UUID]],
) -> None:
    """So two writers that use this order do not deadlock, for any order of the table on disk."""
    with connection.cursor() as cursor:
        cursor.execute(
            'INSERT INTO shop_meter (id, "Odd Name", total, label) '
            "SELECT gen_random_uuid(), 0, 0, '' FROM generate_series(1, 5000)"
        )
        cursor.execute("ANALYZE shop_meter")
    meters = list(Meter.objects.order_by("?")[:500])
    with one_partition():
        add_one(*meters)
        drain_all()
    assert order_of_updates() == sorted(meter.pk for meter in meters)


def test_two_projects_share_a_node_under_different_prefixes(meter: Meter) -> None:
    """Neither sees, reads or drains the writes of the other."""
    with one_partition(prefix="shop"):
        Meter.behind.update(meter.pk, count=F("count") + 1)
    with one_partition(prefix="blog"):
        assert writebehind.dirty_partitions() == []
        assert Meter.behind.get(meter.pk).count == 0
        Meter.behind.update(meter.pk, count=F("count") + 10)
        assert Meter.behind.get(meter.pk).count == 10
    keys: Any = project_queue().nodes[0].call((b"KEYS", b"*"))  # a process of another test may have its own
    assert {key.partition(b":")[0] for key in keys} >= {b"shop", b"blog"}


# Requests for drains


def test_a_partition_has_one_task_that_waits(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks send no second task until the first one begins, or is lost for ten flush intervals."""
    sent: list[tuple[str, int]] = []
    monkeypatch.setattr(tasks.drain, "delay", lambda *partition: sent.append(partition))
    with one_partition():
        client = project_queue()
        add_one(meter)
        assert (tasks.tick(), tasks.tick()) == (1, 0)
        life = client.nodes[0].call((b"PTTL", client.context.request(PARTITION)))
        assert 0 < life <= 10_000 * client.options.flush_interval
        tasks.drain(*sent.pop())
        add_one(meter)
        assert (tasks.tick(), sent) == (1, [("shop.meter", 0)])
        tasks.drain(*sent.pop())
        assert count_of(meter) == 2
