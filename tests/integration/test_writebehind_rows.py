"""What write-behind does to rows: kinds of writes, rows made and removed, rows that are refused, limits."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import DataError, OperationalError, connection, connections, transaction
from django.db.models import F
from django.db.models.functions import Greatest, Least
from django.test import override_settings

from cachebackend import uuid7, writebehind
from cachebackend.effects import Send
from cachebackend.errors import (
    WriteBehindError,
    WriteBehindFullError,
    WriteBehindPartialError,
    WriteBehindRefusedError,
    WriteBehindStoppedError,
    WriteBehindUnknownError,
)
from cachebackend.models import ParkedWrite, WriteBehindCheckpoint
from cachebackend.protocol.queue import pending as pending_module
from cachebackend.writebehind.queue import project_queue
from cacheproject.services import Services
from tests.fix_services import restart_queue
from tests.shop.models import Meter, Tag

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]
MOMENT = datetime(2026, 5, 1, 12, 30, 15, 123456, tzinfo=UTC)


def land() -> list[writebehind.Drained]:
    return [writebehind.drain(partition) for partition, _ in writebehind.dirty_partitions()]


def one_partition(**options: Any) -> override_settings:
    nodes = settings.WRITE_BEHIND["nodes"]
    return override_settings(WRITE_BEHIND={"nodes": nodes, "partitions": 1} | options)


def command(*words: str, code: int = 0) -> dict[str, Any]:
    """Run ``writebehind`` and return what it says as JSON."""
    out, ended = StringIO(), 0
    try:
        call_command("writebehind", *words, "--json", stdout=out, stderr=StringIO())
    except SystemExit as end:
        ended = int(end.code or 0)
    assert ended == code, out.getvalue()
    told: dict[str, Any] = json.loads(out.getvalue().splitlines()[-1])
    return told


@pytest.fixture
def meter() -> Meter:
    """A row."""
    return Meter.objects.create(level=5, seen=MOMENT)


def test_the_least_and_the_most_land_as_the_orm_has_them(meter: Meter) -> None:
    """Of numbers, moments and decimals; of NULL they are the bound."""
    Meter.behind.update(
        meter.pk, level=Greatest(F("level"), 9), seen=Least(F("seen"), MOMENT - timedelta(days=1))
    )
    Meter.behind.update(meter.pk, level=Greatest(F("level"), 7), total=Greatest(Decimal("1.50"), F("total")))
    Meter.behind.update(meter.pk, level=F("level") + 1)
    empty = Meter.objects.create()
    Meter.behind.update(empty.pk, level=Least(F("level"), 3), seen=Greatest(F("seen"), MOMENT))
    land()
    meter.refresh_from_db()
    empty.refresh_from_db()
    assert (meter.level, meter.total, meter.seen) == (10, Decimal("1.50"), MOMENT - timedelta(days=1))
    assert (empty.level, empty.seen) == (3, MOMENT)


def test_a_least_after_a_most_goes_into_the_next_batch(meter: Meter) -> None:
    """Together they would be no clamp; each lands in its turn."""
    Meter.behind.update(meter.pk, level=Greatest(F("level"), 20))
    Meter.behind.update(meter.pk, level=Least(F("level"), 10))
    assert [batch.number for batch in Meter.behind.pending(meter.pk)] == [1, 2]
    land()
    meter.refresh_from_db()
    assert meter.level == 10


def test_a_row_is_made_changed_and_removed_behind() -> None:
    """In one batch or in several; defaults are the model's, and the key is the caller's."""
    key = uuid7()
    made = Meter.behind.create(pk=key, level=3, label="new")
    assert (made.pk, made.count, made.level) == (key, 0, 3)
    Meter.behind.update(key, level=F("level") + 1)
    assert Meter.behind.get(key).level == 4
    with pytest.raises(WriteBehindRefusedError, match="creation is queued already"):
        Meter.behind.create(pk=key, level=9)
    land()
    assert Meter.objects.get(pk=key).level == 4
    Meter.behind.delete(key)
    Meter.behind.update(key, level=100)
    Meter.behind.create(pk=key, level=1, total=Decimal("2.25"))
    land()
    row = Meter.objects.get(pk=key)
    assert (row.level, row.label, row.total) == (1, "", Decimal("2.25"))
    Meter.behind.delete(key)
    with pytest.raises(Meter.DoesNotExist):
        Meter.behind.get(key)
    [drained] = land()
    assert (drained.rows, Meter.objects.count()) == (1, 0)


def test_what_changes_a_row_before_it_is_made_is_void() -> None:
    """It lands first, in a batch of its own."""
    key = uuid7()
    Meter.behind.update(key, level=9)
    Meter.behind.create(pk=key, count=1)
    [drained] = land()
    assert (drained.batches, drained.missing) == (2, 1)
    assert Meter.objects.get(pk=key).level is None


def test_async_rows() -> None:
    """The same, in an event loop."""
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


def test_keys_are_in_the_order_of_their_making() -> None:
    """So that an index of them grows at its end."""
    keys = [uuid7() for _ in range(2000)]
    assert sorted(keys) == keys
    assert {(key.version, key.variant) for key in keys} == {(7, uuid.RFC_4122)}


def test_many_rows_in_one_call(meter: Meter) -> None:
    """More than one script takes; what is refused changes nothing at all."""
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
        land()
    assert set(Meter.objects.exclude(pk=meter.pk).values_list("count", "label", "level")) == {(3, "x", 4)}
    assert Meter.objects.get(pk=meter.pk).count == 0


def test_a_full_queue_refuses_what_would_grow_it(meter: Meter) -> None:
    """What folds into what is there is taken on; a row is taken whole or not at all."""
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
        land()
        Meter.behind.update(others[4].pk, count=7)
        land()
    counts = dict(Meter.objects.values_list("pk", "count"))
    assert [counts[row.pk] for row in others] == [3, 2, 2, 2, 7]


def test_sums_of_counters_may_overtake_a_full_queue(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``on_full``, of fields that are declared as counters, for a sum commutes."""
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


def test_of_many_rows_those_overtake_that_may(
    meter: Meter, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any]
) -> None:
    """Each as a single write would; what may not, is not there, or is refused is told for each row."""
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
        land()
    assert Meter.objects.get(pk=meter.pk).count == 6


def test_a_sum_may_overtake_a_queue_that_is_away(
    meter: Meter, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``on_unavailable``; a write that was sent is not, for it may have been taken."""
    monkeypatch.setattr(Meter.behind.rows, "_counters", ("count",))
    with one_partition(on_unavailable="write_through"):
        Meter.behind.update(meter.pk, count=F("count") + 1)
        project_queue().nodes[0].call((b"WAITAOF", 1, 0, 1500))
        services.kill("queue-a")
        try:
            with pytest.raises(WriteBehindUnknownError, match="not known"):
                Meter.behind.update(meter.pk, count=F("count") + 100)
            Meter.behind.update(meter.pk, count=F("count") + 10)
            Meter.behind.update_many({meter.pk: {"count": F("count") + 20}})
        finally:
            restart_queue(services)
        assert Meter.objects.get(pk=meter.pk).count == 30
        land()
        assert Meter.objects.get(pk=meter.pk).count == 31


def test_fsync_acknowledges_what_is_on_the_disk(meter: Meter, services: Services) -> None:
    """Killed right after the call, the node has it."""
    with one_partition(durability="fsync"):
        Meter.behind.update(meter.pk, count=F("count") + 1)
        services.kill("queue-a")
        restart_queue(services)
        project_queue().close()
        land()
    assert Meter.objects.get(pk=meter.pk).count == 1


def test_memory_goes_on_with_an_emptied_node(meter: Meter) -> None:
    """What was in it is lost, as was agreed; nothing stops."""
    with one_partition(durability="memory"):
        Meter.behind.update(meter.pk, count=F("count") + 1)
        land()
        project_queue().nodes[0].call((b"FLUSHALL",))
        Meter.behind.update(meter.pk, count=F("count") + 1)
        land()
    assert Meter.objects.get(pk=meter.pk).count == 2


# What Postgres refuses


@pytest.fixture
def unique_tags() -> Iterator[list[Meter]]:
    """Meters whose label must be unique where it is not empty, and short."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE UNIQUE INDEX one_label ON shop_meter (label) WHERE label <> ''")
        cursor.execute("ALTER TABLE shop_meter ADD CONSTRAINT low CHECK (level < 100)")
    yield Meter.objects.bulk_create([Meter() for _ in range(8)])
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE shop_meter DROP CONSTRAINT low")
        cursor.execute("DROP INDEX one_label")


def test_a_refused_row_is_parked_and_the_rest_lands(
    unique_tags: list[Meter], caplog: pytest.LogCaptureFixture
) -> None:
    """With its error; later writes of the row park behind it, and a retry keeps their order."""
    rows = unique_tags
    with one_partition():
        Meter.behind.update_many(
            {row.pk: {"level": n, "count": F("count") + 1} for n, row in enumerate(rows)}
        )
        Meter.behind.update(rows[3].pk, level=200)
        [drained] = land()
        assert (drained.rows, drained.parked) == (7, 1)
        [told] = [each for each in caplog.records if getattr(each, "event", "") == "writes_parked"]
        assert (told.partition, told.count) == ("shop.meter:0", 1)  # type: ignore[attr-defined]
        assert Meter.objects.filter(count=1).count() == 7
        Meter.behind.update(rows[3].pk, level=50)
        Meter.behind.update(rows[4].pk, level=44)
        [drained] = land()
        assert (drained.rows, drained.parked) == (1, 1)
        first, second = ParkedWrite.objects.all()
        assert 'violates check constraint "low"' in first.error
        assert second.error == "Parked behind an earlier write of the row."
        told = command("parked", code=1)
        assert told["parked"] == 2
        assert told["writes"][0]["changes"] == "count add 1; level put 200"
        assert command("retry", "--all", code=1) == {"landed": 0, "left": 2}
        assert command("status", code=1)["parked"] == 2
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE shop_meter DROP CONSTRAINT low")
            cursor.execute("ALTER TABLE shop_meter ADD CONSTRAINT low CHECK (level < 1000)")
        assert command("retry", str(second.pk)) == {"landed": 2, "left": 0}
    row = Meter.objects.get(pk=rows[3].pk)
    assert (row.level, row.count) == (50, 1)
    assert command("status")["well"] is True


def test_a_discarded_write_never_lands_and_frees_its_row(unique_tags: list[Meter]) -> None:
    """After it was asked for, by number."""
    row = unique_tags[0]
    Meter.behind.update(row.pk, level=500)
    land()
    [parked] = ParkedWrite.objects.all()
    with pytest.raises(CommandError, match="no write is parked as 0"):
        call_command("writebehind", "discard", "0", "--yes")
    with pytest.raises(CommandError, match="say which"):
        call_command("writebehind", "discard")
    assert command("discard", str(parked.pk), "--yes") == {"discarded": 1}
    Meter.behind.update(row.pk, level=5)
    [drained] = land()
    assert drained.parked == 0
    assert Meter.objects.get(pk=row.pk).level == 5


def test_what_a_batch_needs_of_itself_may_come_in_any_order(unique_tags: list[Meter]) -> None:
    """A value that one row gives up and another takes: neither is parked."""
    first, second = sorted(unique_tags, key=lambda row: row.pk)[:2]
    Meter.objects.filter(pk=second.pk).update(label="taken")
    with one_partition():
        Meter.behind.update_many({first.pk: {"label": "taken"}, second.pk: {"label": "other"}})
        [drained] = land()
    assert drained.parked == 0
    assert {row.label for row in Meter.objects.filter(pk__in=[first.pk, second.pk])} == {"taken", "other"}


def test_a_reference_to_nothing_is_parked(meter: Meter) -> None:
    """Though Postgres would notice at the commit only, and refuse the whole batch."""
    other = Meter.objects.create()
    with one_partition():
        Meter.behind.update(meter.pk, tag=404)
        Meter.behind.update(other.pk, tag=Tag.objects.create(name="here"))
        [drained] = land()
    assert (drained.rows, drained.parked) == (1, 1)
    assert Meter.objects.get(pk=other.pk).tag is not None


def test_a_row_that_is_there_is_not_made_again(meter: Meter) -> None:
    """The creation is parked, and what was to follow it."""
    Meter.behind.create(pk=meter.pk, level=1)
    Meter.behind.update(meter.pk, count=F("count") + 1)
    [drained] = land()
    assert drained.parked == 1
    meter.refresh_from_db()
    assert (meter.level, meter.count) == (5, 0)
    assert ParkedWrite.objects.get().error == "A row with this key exists already."


def test_a_transaction_that_others_break_off_is_tried_again(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deadlock's loser goes again at once; the batch lands once."""
    from cachebackend.writebehind import drains

    apply_or_park = drains.apply_or_park
    broken = []

    def break_off(*arguments: Any) -> Any:
        done = apply_or_park(*arguments)
        if len(broken) < 2:
            broken.append(1)
            with connection.cursor() as cursor:
                cursor.execute("DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$")
        return done

    monkeypatch.setattr(drains, "apply_or_park", break_off)
    Meter.behind.update(meter.pk, count=F("count") + 1)
    [drained] = land()
    assert (drained.rows, len(broken)) == (1, 2)
    assert Meter.objects.get(pk=meter.pk).count == 1


def test_a_database_that_is_away_is_left_alone_for_a_while(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer each time, and not at all once it is back."""
    from cachebackend.writebehind import drains
    from cachebackend.writebehind.backoff import Backoff
    from tests.interleavings.explorer import StepClock

    clock = StepClock("worker")
    backoff = Backoff(clock)
    monkeypatch.setattr(drains, "_backoff", backoff)
    Meter.behind.update(meter.pk, count=F("count") + 1)
    [(partition, _)] = writebehind.dirty_partitions()

    def away(*_: Any) -> Any:
        raise OperationalError

    with monkeypatch.context() as patch:
        patch.setattr(drains, "_limit_statements", away)
        patch.setattr(connections["default"], "is_usable", lambda: False)
        with pytest.raises(OperationalError):
            writebehind.drain(partition)
    assert backoff.wait_seconds("default") > 0
    assert writebehind.drain(partition).more
    assert Meter.objects.get(pk=meter.pk).count == 0
    backoff.answered("default")
    writebehind.drain(partition)
    assert Meter.objects.get(pk=meter.pk).count == 1


# Queues that moved, or came back


def restored(services: Services, meter: Meter) -> None:
    """Bring the queue node back to what it was before its last batch landed."""
    node = project_queue().nodes[0]
    [(partition, _)] = writebehind.dirty_partitions()
    keys = [partition.meta, partition.batch(1), b"wb:dirty"]
    dumps = [node.call((b"DUMP", key)) for key in keys]
    land()
    for key, dump in zip(keys, dumps, strict=True):
        node.call((b"RESTORE", key, 0, dump, b"REPLACE"))


@pytest.mark.parametrize(("choice", "count"), [("--keep", 3), ("--drop", 1)])
def test_a_queue_that_is_older_than_its_checkpoint_waits_for_a_person(
    meter: Meter, services: Services, choice: str, count: int
) -> None:
    """Who lands what stands in it, landed before or not, or drops it."""
    with one_partition():
        Meter.behind.update(meter.pk, count=F("count") + 1)
        restored(services, meter)
        Meter.behind.update(meter.pk, count=F("count") + 1)
        with pytest.raises(WriteBehindStoppedError, match="came back with an older file"):
            land()
        told = command("repair", code=1)["faults"]
        assert [(f["trouble"], f["landed"], f["open"]) for f in told] == [
            ("the queue node came back with an older file", 1, 1)
        ]
        assert command("status", code=1)["stopped"] == ["shop.meter:0"]
        command("repair", choice)
        land()
        assert Meter.objects.get(pk=meter.pk).count == count
        Meter.behind.update(meter.pk, count=F("count") + 1)
        land()
        assert Meter.objects.get(pk=meter.pk).count == count + 1
        assert command("repair") == {"faults": []}


def test_a_queue_that_is_gone_is_given_up_by_a_person(meter: Meter) -> None:
    """Then its partition goes on with the new one."""
    with one_partition():
        Meter.behind.update(meter.pk, count=F("count") + 1)
        land()
        project_queue().nodes[0].call((b"FLUSHALL",))
        Meter.behind.update(meter.pk, count=F("count") + 1)
        with pytest.raises(WriteBehindStoppedError, match="was emptied or replaced"):
            land()
        assert command("repair", "--keep")["faults"][0]["repaired"]
        land()
    assert Meter.objects.get(pk=meter.pk).count == 2


def test_a_database_that_is_older_goes_on_after_what_was_dropped(meter: Meter) -> None:
    """Restored from a backup, it lacks batches that the queue has forgotten."""
    with one_partition():
        for _ in range(3):
            Meter.behind.update(meter.pk, count=F("count") + 1)
            land()
        WriteBehindCheckpoint.objects.update(batch=1)
        Meter.behind.update(meter.pk, count=F("count") + 1)
        with pytest.raises(WriteBehindStoppedError, match="database came back with an older state"):
            land()
        [told] = command("repair", "--drop", code=1)["faults"]
        assert not told["repaired"]
        assert "were never drained, and only the database came back" in told["error"]
        [told] = command("repair", "--keep")["faults"]
        assert (told["repaired"], told["error"]) == (True, None)
        land()
    assert Meter.objects.get(pk=meter.pk).count == 4


def test_queues_on_nodes_that_are_left_land_first(meter: Meter, services: Services) -> None:
    """What they hold is older; reads merge both; afterwards they owe nothing."""
    old = settings.WRITE_BEHIND["nodes"]
    new = [f"{services.ring_urls[0].partition('?')[0]}?name=queue-b"]
    rest = {"partitions": 1, "durability": "memory"}
    with override_settings(WRITE_BEHIND={"nodes": old} | rest):
        Meter.behind.update(meter.pk, level=1, count=F("count") + 1)
        land()
        Meter.behind.update(meter.pk, level=2, count=F("count") + 1)
    with override_settings(WRITE_BEHIND={"nodes": new, "retiring": old} | rest):
        Meter.behind.update(meter.pk, level=3, count=F("count") + 1)
        row = Meter.behind.get(meter.pk)
        assert (row.level, row.count) == (3, 3)
        land()
        row = Meter.objects.get(pk=meter.pk)
        assert (row.level, row.count) == (3, 3)
    with override_settings(WRITE_BEHIND={"nodes": new} | rest):
        Meter.behind.update(meter.pk, count=F("count") + 1)
        land()
    assert Meter.objects.get(pk=meter.pk).count == 4
    assert WriteBehindCheckpoint.objects.filter(is_ended=True).count() == 1


# Reads


@pytest.mark.parametrize("moment", ["seal", "contents", "apply_or_park", "invalidate_rows", "close", "after"])
def test_a_read_is_exact_at_every_step_of_a_drain(
    meter: Meter, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Neither a batch that the row has counts again, nor is one lost that the queue has dropped."""
    from cachebackend import protocol
    from cachebackend.writebehind import drains

    seen = []
    owner = protocol if moment in {"seal", "contents", "close"} else drains
    real = getattr(owner, moment, None)

    def look(*arguments: Any) -> Any:
        seen.append(read_elsewhere(meter.pk))
        return real(*arguments)  # type: ignore[misc]

    Meter.behind.update(meter.pk, count=F("count") + 1)
    land()
    Meter.behind.update(meter.pk, count=F("count") + 1)
    if real is not None:
        monkeypatch.setattr(owner, moment, look)
    land()
    seen.append(Meter.behind.get(meter.pk).count)
    assert set(seen) == {2}


def read_elsewhere(pk: Any) -> int:
    """Read in a thread, which has a connection of its own."""
    from concurrent.futures import ThreadPoolExecutor

    def read() -> int:
        try:
            return Meter.behind.get(pk).count
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(read).result()


def test_a_batch_that_lands_between_the_two_readings_is_not_lost(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is read again, for the queue has dropped what it lacks."""
    from cachebackend.writebehind import reads

    read_queue = reads._read_queue
    turns = []

    def land_first(*arguments: Any) -> Any:
        if not turns:
            turns.append(1)
            land()
        return read_queue(*arguments)

    Meter.behind.update(meter.pk, count=F("count") + 1)
    monkeypatch.setattr(reads, "_read_queue", land_first)
    assert Meter.behind.get(meter.pk).count == 1
    key = uuid7()
    Meter.behind.create(pk=key, count=5)
    turns.clear()
    assert Meter.behind.get(key).count == 5


def test_a_snapshot_that_is_behind_says_so(meter: Meter) -> None:
    """There is no exact answer in it."""
    Meter.behind.update(meter.pk, count=F("count") + 1)
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert Meter.behind.get(meter.pk).count == 1
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: (land(), connections.close_all())).result()
        with pytest.raises(WriteBehindError, match="REPEATABLE READ"):
            Meter.behind.get(meter.pk)


def test_a_row_of_many_is_read_at_one_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows one call reads: what one write changes is seen together, or not at all."""
    from cachebackend import protocol
    from cachebackend.writebehind import reads

    rows = Meter.objects.bulk_create([Meter() for _ in range(9)])
    pending, writes = protocol.pending, iter(range(2, 100))

    def write() -> None:
        number = next(writes)
        Meter.behind.update_many({row.pk: {"level": number, "count": number} for row in rows})

    def command_by_command(*arguments: Any) -> Any:
        operation = pending(*arguments)
        effect: Any = next(operation)
        while True:
            replies = []
            for request in effect.requests:
                replies += yield Send([request])
                write()
            try:
                effect = operation.send(replies)
            except StopIteration as end:
                return end.value

    for module in (reads, pending_module):
        monkeypatch.setattr(module, "PENDING_FIELDS", 60)  # of two rows, and two more
    with one_partition():
        write()
        monkeypatch.setattr(protocol, "pending", command_by_command)
        found = Meter.behind.in_bulk([row.pk for row in rows]).values()
    assert [(row.level, row.count) for row in found if row.level != row.count] == []
    assert len({row.level for row in found}) == 5


def test_what_waits_behind_a_parked_write_is_not_shown(unique_tags: list[Meter]) -> None:
    """It will park too; read before and after it does, the row is the same."""
    row = unique_tags[0]
    with one_partition():
        Meter.behind.update(row.pk, level=200)
        assert Meter.behind.get(row.pk).level == 200
        land()
        Meter.behind.update(row.pk, level=7)
        assert Meter.behind.get(row.pk).level is None
        land()
        assert Meter.behind.get(row.pk).level is None
        made = Meter.behind.create(pk=uuid7(), label="x")
        Meter.behind.create(pk=(taken := uuid7()), label="x")
        assert Meter.behind.get(taken).label == "x"
        land()
        Meter.behind.delete(taken)
        Meter.behind.create(pk=taken, label="y")
        assert list(Meter.behind.in_bulk([made.pk, taken])) == [made.pk]


def test_what_waits_is_told_in_words(meter: Meter) -> None:
    """A batch each."""
    Meter.behind.update(meter.pk, count=F("count") + 2, seen=None, level=Greatest(F("level"), 3))
    [batch] = Meter.behind.pending(meter.pk)
    assert batch.changes == {"count": {"add": 2}, "seen": {"put": None}, "level": {"at_least": 3}}
    assert (batch.is_created, batch.is_deleted) == (False, False)
    land()
    assert Meter.behind.pending(meter.pk) == []


# Commands


def test_status_and_drain_tell_and_land(meter: Meter) -> None:
    """For people and for scripts."""
    Meter.behind.update(meter.pk, count=F("count") + 2)
    told = command("status")
    assert (told["waiting"], told["well"], told["faults"]) == (1, True, [])
    out = StringIO()
    call_command("writebehind", "status", stdout=out)
    assert "1 changes wait" in out.getvalue()
    assert command("drain") == {
        "batches": 1, "rows": 1, "missing": 0, "parked": 0, "left": 0, "partitions": {},
    }  # fmt: skip
    assert command("status")["waiting"] == 0


def test_one_partition_that_stopped_does_not_keep_the_others(meter: Meter) -> None:
    """``drain`` lands those, says why the one does not, and does not wait for it."""
    rows = Meter.objects.bulk_create([Meter() for _ in range(40)])
    Meter.behind.update_many({row.pk: {"count": F("count") + 1} for row in rows})
    land()
    stopped = WriteBehindCheckpoint.objects.first()
    assert stopped is not None
    WriteBehindCheckpoint.objects.filter(pk=stopped.pk).update(batch=50)
    Meter.behind.update_many({row.pk: {"count": F("count") + 1} for row in rows})
    told = command("drain", code=1)
    [(name, error)] = told["partitions"].items()
    assert name == f"shop.meter:{stopped.partition}"
    assert "came back with an older file" in error
    assert told["rows"] == Meter.objects.filter(count=2).count() > 20


def test_a_drain_that_waits_outlives_a_lost_connection(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits out the time for which the database is left alone, and goes on."""
    from cachebackend.management.commands import writebehind as commands
    from cachebackend.writebehind import drains
    from cachebackend.writebehind.backoff import Backoff
    from tests.interleavings.explorer import StepClock

    clock = StepClock("drain")
    monkeypatch.setattr(drains, "_backoff", Backoff(clock))
    monkeypatch.setattr(
        commands.time, "sleep", lambda seconds: setattr(clock, "waited", clock.waited + seconds)
    )
    limit, broken = drains._limit_statements, []

    def break_off(using: str) -> None:
        limit(using)
        if not broken:
            broken.append(1)
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    monkeypatch.setattr(drains, "_limit_statements", break_off)
    Meter.behind.update(meter.pk, count=F("count") + 2)
    told = command("drain")
    assert (broken, told["rows"], told["left"]) == ([1], 1, 0)
    assert Meter.objects.get(pk=meter.pk).count == 2


@pytest.mark.parametrize("dead", ["postgres", "queue-a"])
def test_status_tells_the_lag_while_something_is_away(meter: Meter, services: Services, dead: str) -> None:
    """What still answers is told, and what does not: an outage is when one looks."""
    Meter.behind.update(meter.pk, count=F("count") + 1)
    land()
    Meter.behind.update(meter.pk, count=F("count") + 1)
    services.kill(dead)
    try:
        told = command("status", code=1)
        out = StringIO()
        with pytest.raises(SystemExit):
            call_command("writebehind", "status", stdout=out)
    finally:
        restart_queue(services) if dead == "queue-a" else services.restart(dead)
        connections.close_all()
    assert told["well"] is False
    assert any("which partitions have stopped is not known" in fault for fault in told["faults"])
    assert "not well: " in out.getvalue()
    if dead == "postgres":
        assert (told["waiting"], told["oldest_seconds"] > 0) == (1, True)
    assert command("status")["waiting"] == 1


def test_a_queue_node_that_may_lose_writes_is_told(meter: Meter) -> None:
    """By what it is set to, and what to set."""
    node = project_queue().nodes[0]
    node.call((b"CONFIG", b"SET", b"maxmemory-policy", b"allkeys-lru", b"appendonly", b"no"))
    try:
        [first, second] = command("status", code=1)["faults"]
    finally:
        node.call((b"CONFIG", b"SET", b"maxmemory-policy", b"noeviction", b"appendonly", b"yes"))
    assert "set maxmemory-policy noeviction" in first
    assert "set appendonly yes" in second
