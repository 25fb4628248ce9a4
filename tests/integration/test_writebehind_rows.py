"""Kinds of writes: rows that are created, changed and deleted, limits, and writing through."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Any

import ormsgpack
import pytest
from asgiref.sync import sync_to_async
from django.db import DataError, OperationalError, connection, connections, transaction
from django.db.models import F
from django.db.models.functions import Greatest, Least

from cachebackend import uuid7
from cachebackend.errors import (
    NodeUnavailableError,
    WriteBehindFullError,
    WriteBehindPartialError,
    WriteBehindRefusedError,
    WriteBehindUnknownError,
)
from cachebackend.models import ParkedWrite
from cachebackend.queries import InvalidatingQuerySet
from cachebackend.writebehind.queue import project_queue
from cacheproject.services import Services
from tests.fix_services import restart_queue
from tests.integration.write_behind import drain_all, one_partition
from tests.shop.models import Meter

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
MOMENT = datetime(2026, 5, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
def meter() -> Meter:
    """A row."""
    return Meter.objects.create(level=5, seen=MOMENT)


def test_greatest_and_least_are_applied_as_the_orm_applies_them(meter: Meter) -> None:
    """For integers, datetimes and decimals; NULL becomes the bound."""
    Meter.behind.update(
        meter.pk, level=Greatest(F("level"), 9), seen=Least(F("seen"), MOMENT - timedelta(days=1))
    )
    Meter.behind.update(meter.pk, level=Greatest(F("level"), 7), total=Greatest(Decimal("1.50"), F("total")))
    Meter.behind.update(meter.pk, level=F("level") + 1)
    empty = Meter.objects.create()
    Meter.behind.update(empty.pk, level=Least(F("level"), 3), seen=Greatest(F("seen"), MOMENT))
    drain_all()
    meter.refresh_from_db()
    empty.refresh_from_db()
    assert (meter.level, meter.total, meter.seen) == (10, Decimal("1.50"), MOMENT - timedelta(days=1))
    assert (empty.level, empty.seen) == (3, MOMENT)


def test_greatest_and_least_by_turns_fold_into_one_batch() -> None:
    """In every order, with sums between them, for NULL too; read and drained as the ORM applies them."""
    steps: list[tuple[Any, Callable[[int | None], int | None]]] = [
        (Greatest(F("level"), 20), lambda old: 20 if old is None else max(old, 20)),
        (Greatest(F("level"), 5), lambda old: 5 if old is None else max(old, 5)),
        (Least(F("level"), 10), lambda old: 10 if old is None else min(old, 10)),
        (Least(F("level"), 25), lambda old: 25 if old is None else min(old, 25)),
        (F("level") + 4, lambda old: None if old is None else old + 4),
    ]
    walks = [(start, walk) for start in (None, 0, 30) for walk in product(range(len(steps)), repeat=3)]
    rows = Meter.objects.bulk_create([Meter(level=start) for start, _ in walks])
    expected: dict[Any, int | None] = {}
    for row, (start, walk) in zip(rows, walks, strict=True):
        expected[row.pk] = start
        for step in walk:
            expected[row.pk] = steps[step][1](expected[row.pk])
    with one_partition():
        for turn in range(3):
            Meter.behind.update_many(
                (row.pk, {"level": steps[walk[turn]][0]}) for row, (_, walk) in zip(rows, walks, strict=True)
            )
        assert {pk: row.level for pk, row in Meter.behind.in_bulk(expected).items()} == expected
        [drained] = drain_all()
    assert drained.batches == 1
    assert dict(Meter.objects.values_list("pk", "level")) == expected


def test_a_value_replaces_bounds_in_any_order(meter: Meter) -> None:
    """And so does a deletion."""
    with one_partition():
        Meter.behind.update(meter.pk, level=Least(F("level"), 10))
        Meter.behind.update(meter.pk, level=Greatest(F("level"), 7))
        Meter.behind.update(meter.pk, level=3)
        assert [each.changes for each in Meter.behind.pending(meter.pk)] == [{"level": {"put": 3}}]
        Meter.behind.update(meter.pk, level=Least(F("level"), 10))
        Meter.behind.update(meter.pk, level=Greatest(F("level"), 7))
        Meter.behind.delete(meter.pk)
        assert [each.changes for each in Meter.behind.pending(meter.pk)] == [{}]


def test_a_row_is_created_changed_and_deleted_behind() -> None:
    """In one batch or in several; defaults come from the model, and the key from the caller."""
    key = uuid7()
    created = Meter.behind.create(pk=key, level=3, label="new")
    assert (created.pk, created.count, created.level) == (key, 0, 3)
    Meter.behind.update(key, level=F("level") + 1)
    assert Meter.behind.get(key).level == 4
    with pytest.raises(WriteBehindRefusedError, match="creation is queued already"):
        Meter.behind.create(pk=key, level=9)
    drain_all()
    assert Meter.objects.get(pk=key).level == 4
    Meter.behind.delete(key)
    Meter.behind.update(key, level=100)
    Meter.behind.create(pk=key, level=1, total=Decimal("2.25"))
    drain_all()
    row = Meter.objects.get(pk=key)
    assert (row.level, row.label, row.total) == (1, "", Decimal("2.25"))
    Meter.behind.delete(key)
    with pytest.raises(Meter.DoesNotExist):
        Meter.behind.get(key)
    [drained] = drain_all()
    assert (drained.rows, Meter.objects.count()) == (1, 0)


@pytest.mark.parametrize("drained", [False, True])
def test_a_creation_that_is_sent_again_has_no_further_effect(drained: bool) -> None:
    """Because its caller got no reply, in the same batch or after the first one was drained."""
    values = {"pk": uuid7(), "level": 3, "label": "new", "data": {"a": [1, None]}, "total": Decimal("1.50")}
    Meter.behind.create(**values)
    if drained:
        drain_all()
    else:
        Meter.behind.update(values["pk"], level=F("level") + 1)
    Meter.behind.create(**values)
    Meter.behind.update(values["pk"], level=F("level") + 1, total=Greatest(F("total"), Decimal(7)))
    expected = (4 if drained else 5, Decimal(7), "new", {"a": [1, None]})
    row = Meter.behind.get(values["pk"])
    assert (row.level, row.total, row.label, row.data) == expected
    assert [each.parked for each in drain_all()] == [0]
    row = Meter.objects.get()
    assert (row.level, row.total, row.label, row.data) == expected


def test_only_the_rows_that_differ_are_refused() -> None:
    """Of several creations of rows that exist."""
    equal, other = [Meter.objects.create(level=level) for level in (1, 2)]
    with one_partition():
        for pk in (equal.pk, other.pk, new := uuid7()):
            Meter.behind.create(pk=pk, level=1)
        [drained] = drain_all()
    assert (drained.rows, drained.parked) == (1, 1)
    assert ParkedWrite.objects.get().key == other.pk.hex
    assert set(Meter.objects.values_list("pk", "level")) == {(equal.pk, 1), (other.pk, 2), (new, 1)}


def test_a_change_before_the_creation_has_no_effect() -> None:
    """The change is drained first, in a separate batch, and finds no row."""
    key = uuid7()
    Meter.behind.update(key, level=9)
    Meter.behind.create(pk=key, count=1)
    [drained] = drain_all()
    assert (drained.batches, drained.missing) == (2, 1)
    assert Meter.objects.get(pk=key).level is None


def test_pipelined_writes_are_queued_in_one_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are not queued are named with their errors; all others are queued."""
    keys = sorted(meter.pk for meter in Meter.objects.bulk_create([Meter() for _ in range(3)]))
    with Meter.behind.pipelined() as pipeline:
        for key in keys:
            pipeline.update(key, count=F("count") + 2)
        new = pipeline.create(pk=uuid.uuid4(), count=7)
    assert [Meter.behind.get(key).count for key in [*keys, new.pk]] == [2, 2, 2, 7]
    with pytest.raises(WriteBehindPartialError) as raised, Meter.behind.pipelined() as pipeline:
        pipeline.update(keys[0], count=F("count") + (2**63 - 2))
        pipeline.update(keys[1], count=F("count") + 1)
    assert list(raised.value.errors) == [keys[0]]
    assert [Meter.behind.get(key).count for key in keys] == [2, 3, 2]

    async def main() -> None:
        async with Meter.behind.pipelined() as pipeline:
            for key in keys:
                await pipeline.aupdate(key, count=F("count") + 1)
            await pipeline.adelete(new.pk)
        await sync_to_async(connections.close_all)()

    asyncio.run(main())
    assert [Meter.behind.get(key).count for key in keys] == [3, 4, 3]
    assert Meter.behind.in_bulk([new.pk]) == {}


def test_async_rows() -> None:
    """The async twins do the same in an event loop."""
    keys = [uuid7() for _ in range(3)]

    async def main() -> list[int]:
        for key in keys:
            await Meter.behind.acreate(pk=key)
        await Meter.behind.aupdate_many({key: {"count": F("count") + 2} for key in keys})
        await Meter.behind.adelete(keys[0])
        assert (await Meter.behind.aget(keys[1])).count == 2
        assert len(await Meter.behind.apending(keys[1])) == 1
        found = await Meter.behind.ain_bulk(keys)
        await sync_to_async(connections.close_all)()
        return [row.count for row in found.values()]

    assert asyncio.run(main()) == [2, 2]


def test_uuid7_keys_ascend() -> None:
    """So an index over them grows at its end."""
    keys = [uuid7() for _ in range(2000)]
    assert sorted(keys) == keys
    assert {(key.version, key.variant) for key in keys} == {(7, uuid.RFC_4122)}


def test_many_rows_in_one_call(meter: Meter) -> None:
    """More rows than one script call takes; if a row is refused, nothing is queued."""
    rows = Meter.objects.bulk_create([Meter() for _ in range(1500)])
    with one_partition():
        Meter.behind.update_many({row.pk: {"count": F("count") + 3, "label": "x"} for row in rows})
        with pytest.raises(WriteBehindRefusedError, match="not written behind"):
            Meter.behind.update_many({meter.pk: {"count": 1}, rows[0].pk: {"id": 1}})
        with pytest.raises(WriteBehindRefusedError, match="one row twice"):
            Meter.behind.update_many({meter.pk: {"count": 1}, str(meter.pk): {"count": 2}})
        with pytest.raises(WriteBehindRefusedError, match="one row twice"):
            Meter.behind.update_many([(meter.pk, {"count": 1}), (meter.pk, {"count": 2})])
        Meter.behind.update_many((row.pk, {"level": 4}) for row in rows)
        drain_all()
    assert set(Meter.objects.exclude(pk=meter.pk).values_list("count", "label", "level")) == {(3, "x", 4)}
    assert Meter.objects.get(pk=meter.pk).count == 0


def test_a_full_queue_refuses_writes_that_need_a_new_field(meter: Meter) -> None:
    """A write that needs no new field is taken; a row is queued entirely or not at all."""
    others = Meter.objects.bulk_create([Meter() for _ in range(5)])
    with one_partition(high_water=4):
        Meter.behind.update_many({row.pk: {"count": F("count") + 1} for row in others[:4]})
        Meter.behind.update(others[0].pk, count=F("count") + 1)
        with pytest.raises(WriteBehindFullError, match="high_water"):
            Meter.behind.update(others[4].pk, count=F("count") + 1)
        with pytest.raises(WriteBehindPartialError) as caught:
            Meter.behind.update_many({row.pk: {"count": F("count") + 1} for row in others})
        assert list(caught.value.errors) == [others[4].pk]
        with pytest.raises(WriteBehindFullError):
            Meter.behind.update(others[0].pk, count=F("count") + 1, label="x")
        drain_all()
        Meter.behind.update(others[4].pk, count=7)
        drain_all()
    counts = dict(Meter.objects.values_list("pk", "count"))
    assert [counts[row.pk] for row in others] == [3, 2, 2, 2, 7]


def test_counters_are_written_through_when_the_queue_is_full(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``on_full="write_through"``, for fields declared as counters, because additions commute."""
    monkeypatch.setattr(Meter.behind.rows, "_counters", ("count",))
    with one_partition(high_water=1, on_full="write_through"):
        Meter.behind.update(meter.pk, count=F("count") + 1)
        other = Meter.objects.create()
        Meter.behind.update(other.pk, count=F("count") + 5)
        assert Meter.objects.get(pk=other.pk).count == 5
        with pytest.raises(WriteBehindFullError):
            Meter.behind.update(other.pk, label="x")
        with pytest.raises(WriteBehindRefusedError, match="is a counter"):
            Meter.behind.update(other.pk, count=1)
        with pytest.raises(WriteBehindFullError):
            Meter.behind.update(uuid7(), count=F("count") + 5)


def test_nothing_is_written_through_before_a_queued_creation(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queued or parked creation or deletion would undo it; additions in the queue do not."""
    monkeypatch.setattr(Meter.behind.rows, "_counters", ("count",))
    with one_partition(high_water=8, on_full="write_through", batch_rows=1):
        Meter.behind.delete(meter.pk)
        Meter.behind.create(pk=meter.pk, count=0)
        with pytest.raises(WriteBehindFullError):
            Meter.behind.update(meter.pk, count=F("count") + 1)
        drain_all()
        ParkedWrite.objects.create(
            label="shop.meter",
            partition=0,
            batch=1,
            key=meter.pk.hex,
            changes=ormsgpack.packb({"marker": b"x", "changes": []}),
            error="no",
        )
        Meter.behind.create(pk=uuid7())
        with pytest.raises(WriteBehindFullError):
            Meter.behind.update(meter.pk, count=F("count") + 1)
        ParkedWrite.objects.all().delete()
        Meter.behind.update(meter.pk, count=F("count") + 1)
        assert Meter.objects.get(pk=meter.pk).count == 1
        assert Meter.behind.get(meter.pk).count == 1


def test_what_is_written_through_is_part_of_the_transaction(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is rolled back with it; a write that the database refuses does not break the transaction."""
    monkeypatch.setattr(Meter.behind.rows, "_counters", ("count",))
    one, large = Meter.objects.bulk_create([Meter(), Meter(count=2**63 - 1)])
    with one_partition(high_water=1, on_full="write_through"):
        Meter.behind.update(meter.pk, count=F("count") + 1)
        with transaction.atomic():
            with pytest.raises(DataError):
                Meter.behind.update(large.pk, count=F("count") + 5)
            Meter.behind.update(one.pk, count=F("count") + 5)
        with transaction.atomic():
            Meter.behind.update(one.pk, count=F("count") + 5)
            transaction.set_rollback(True)
            with pytest.raises(WriteBehindFullError, match="did not take it either"):
                Meter.behind.update(one.pk, count=F("count") + 5)
        assert Meter.objects.get(pk=one.pk).count == 5


@pytest.mark.parametrize("was_sent", [False, True])
def test_a_full_queue_and_an_absent_database_are_one_clear_error(
    meter: Meter, monkeypatch: pytest.MonkeyPatch, was_sent: bool
) -> None:
    """It says whether the write may have happened: only after the statement was sent."""
    monkeypatch.setattr(Meter.behind.rows, "_counters", ("count",))

    def away(*_: Any, **__: Any) -> Any:
        raise OperationalError("the connection is refused")

    method = (InvalidatingQuerySet, "update") if was_sent else (connection, "ensure_connection")
    expected = WriteBehindUnknownError if was_sent else WriteBehindFullError
    other = Meter.objects.create()
    with one_partition(high_water=1, on_full="write_through"):
        Meter.behind.update(meter.pk, count=F("count") + 1)
        with monkeypatch.context() as patch:
            patch.setattr(*method, away)
            with pytest.raises(expected, match="the connection is refused"):
                Meter.behind.update(other.pk, count=F("count") + 5)
            with pytest.raises(WriteBehindPartialError) as caught:
                Meter.behind.update_many({other.pk: {"count": F("count") + 5}})
            assert type(caught.value.errors[other.pk]) is expected
        assert Meter.objects.get(pk=other.pk).count == 0


def test_update_many_writes_through_the_rows_that_may_be(
    meter: Meter, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any]
) -> None:
    """Each row is treated like a single write; rows that are not written have their own error."""
    monkeypatch.setattr(Meter.behind.rows, "_counters", ("count",))
    one, other, large = Meter.objects.bulk_create([Meter(), Meter(), Meter(count=2**63 - 1)])
    nobody = uuid7()
    with one_partition(high_water=1, on_full="write_through"):
        Meter.behind.update(meter.pk, count=F("count") + 1)
        with pytest.raises(WriteBehindPartialError) as caught:
            asked = {pk: {"count": F("count") + 5} for pk in (meter.pk, one.pk, large.pk, nobody)}
            call(Meter.behind, "update_many", asked | {other.pk: {"label": "x"}})
        errors = {pk: type(error) for pk, error in caught.value.errors.items()}
        assert errors == {large.pk: DataError, nobody: WriteBehindFullError, other.pk: WriteBehindFullError}
        assert Meter.objects.get(pk=one.pk).count == 5
        call(Meter.behind, "update_many", [(one.pk, {"count": F("count") + 1})])
        assert Meter.objects.get(pk=one.pk).count == 6
        drain_all()
    assert Meter.objects.get(pk=meter.pk).count == 6


def test_counters_are_written_through_when_the_queue_node_is_down(
    meter: Meter, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``on_unavailable="write_through"``, except a write that was sent: it may have been taken.

    A creation or deletion that the node holds would undo it, so the manager must refuse these.
    """
    monkeypatch.setattr(Meter.behind.rows, "_counters", ("count",))
    with one_partition(on_unavailable="write_through"):
        Meter.behind.update(meter.pk, count=F("count") + 1)
        project_queue().nodes[0].call((b"WAITAOF", b"1", b"0", b"1500"))
        services.kill("queue-a")
        try:
            with pytest.raises(WriteBehindUnknownError, match="not known"):
                Meter.behind.update(meter.pk, count=F("count") + 100)
            with pytest.raises(NodeUnavailableError):
                Meter.behind.update(meter.pk, count=F("count") + 1000)
            monkeypatch.setattr(Meter.behind.rows, "updates_only", True)
            for refused in (Meter.behind.create, lambda: Meter.behind.delete(meter.pk)):
                with pytest.raises(WriteBehindRefusedError, match="updates_only"):
                    refused()
            Meter.behind.update(meter.pk, count=F("count") + 10)
            Meter.behind.update_many({meter.pk: {"count": F("count") + 20}})
        finally:
            restart_queue(services)
        assert Meter.objects.get(pk=meter.pk).count == 30
        drain_all()
        assert Meter.objects.get(pk=meter.pk).count == 31


@pytest.mark.hangs
def test_a_hung_queue_node_costs_one_timeout_and_drops_counters_only_if_asked(
    meter: Meter, services: Services, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any]
) -> None:
    """The first call waits for ``socket_timeout``, the later ones for nothing; what is lost is counted."""
    monkeypatch.setattr(Meter.behind.rows, "_counters", ("count",))
    times = {"connect_timeout": 0.2, "socket_timeout": 0.2}
    with one_partition(on_unavailable="drop", **times):
        client = project_queue()
        [node] = client.nodes
        assert node.breaker is not None
        before = client.counters.total().dropped
        call(Meter.behind, "update", meter.pk, count=F("count") + 1)
        services.stop("queue-a")
        try:
            call(Meter.behind, "update", meter.pk, count=F("count") + 10)
            assert (node.breaker.is_open, node._timeout) == (True, 0.2)
            call(Meter.behind, "update_many", {meter.pk: {"count": F("count") + 10}})
            assert client.counters.total().dropped == before + 2
            with pytest.raises(NodeUnavailableError, match="is ejected"):
                Meter.behind.update(meter.pk, label="x")
        finally:
            services.resume("queue-a")
    with one_partition(**times):
        drain_all()
    assert Meter.objects.get(pk=meter.pk).count in {1, 11}  # the node may take the write that it was sent


def test_fsync_acknowledges_only_writes_on_disk(meter: Meter, services: Services) -> None:
    """A node that is killed right after the call has the write."""
    with one_partition(durability="fsync"):
        Meter.behind.update(meter.pk, count=F("count") + 1)
        services.kill("queue-a")
        restart_queue(services)
        project_queue().close()
        drain_all()
    assert Meter.objects.get(pk=meter.pk).count == 1


def test_memory_continues_with_an_emptied_node(meter: Meter) -> None:
    """The queued writes are lost, as ``durability="memory"`` allows; nothing stops."""
    with one_partition(durability="memory"):
        Meter.behind.update(meter.pk, count=F("count") + 1)
        drain_all()
        project_queue().nodes[0].call((b"FLUSHALL",))
        Meter.behind.update(meter.pk, count=F("count") + 1)
        drain_all()
    assert Meter.objects.get(pk=meter.pk).count == 2
