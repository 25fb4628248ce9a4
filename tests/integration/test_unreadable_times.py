"""Times in the tables of write-behind that Python cannot hold: they hide and stop nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.db.models import F, Max
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse

from cachebackend import writebehind
from cachebackend.models import OutboxRow, ParkedWrite, WriteBehindCheckpoint
from cachebackend.monitoring import queue_figures
from tests.integration.write_behind import command, drain_all, one_partition
from tests.shop.models import Meter

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("empty_nodes"),
    pytest.mark.postgres,
    pytest.mark.parametrize("moment", ["infinity", "-infinity", "0044-03-15 BC", "20000-01-01"]),
]


def run(sql: str, *parameters: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)


def add_one(*meters: Meter) -> None:
    Meter.behind.update_many({meter.pk: {"count": F("count") + 1} for meter in meters})
    drain_all()


@pytest.fixture
def waiting() -> Meter:
    """A row whose write was refused, and is parked until its next retry, which is due."""
    meter = Meter.objects.create()
    with one_partition():
        run('ALTER TABLE shop_meter ADD CONSTRAINT low CHECK ("Odd Name" < 1)')
        try:
            add_one(meter)
        finally:
            run("ALTER TABLE shop_meter DROP CONSTRAINT low")
    run("UPDATE cachebackend_parkedwrite SET retry_at = now() - interval '5 s'")
    return meter


@pytest.mark.parametrize("column", ["created", "retry_at"])
def test_a_parked_write_is_shown_and_can_be_retried(waiting: Meter, moment: str, column: str) -> None:
    """The pages and commands show it, and a person retries it like any other."""
    run(f"UPDATE cachebackend_parkedwrite SET {column} = %s", moment)
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    parked = ParkedWrite.objects.values_list("pk", flat=True).get()
    for name, *args in (("changelist",), ("change", parked)):
        page = client.get(reverse(f"admin:cachebackend_parkedwrite_{name}", args=args))
        assert page.status_code == 200
    assert client.get(reverse("admin:cachebackend_ring_changelist")).status_code == 200
    assert queue_figures().parked == 1
    assert command("parked", code=1)["parked"] == 1
    assert command("retry", "--all")["landed"] == 1
    waiting.refresh_from_db()
    assert waiting.count == 1


@pytest.mark.parametrize("column", ["created", "retry_at"])
def test_a_parked_write_does_not_stop_the_retries_of_others(waiting: Meter, moment: str, column: str) -> None:
    """Writes that are due are retried by themselves, and one that is refused again gets its next retry."""
    other = Meter.objects.create()
    run(
        "INSERT INTO cachebackend_parkedwrite (label, partition, batch, key, changes, error, retry_at) "
        "SELECT label, partition, batch, %s, '', error, retry_at FROM cachebackend_parkedwrite",
        str(other.pk),
    )
    run(f"UPDATE cachebackend_parkedwrite SET {column} = %s WHERE key = %s", moment, str(other.pk))
    assert writebehind.retry_waiting("default").applied == 1
    waiting.refresh_from_db()
    assert waiting.count == 1


def test_the_next_retry_is_within_a_minute(moment: str) -> None:
    """A write that waits for another row is retried soon, however old or new it claims to be."""
    meter = Meter.objects.create()
    with one_partition():
        Meter.behind.update(meter.pk, tag=404)
        drain_all()
    run("UPDATE cachebackend_parkedwrite SET created = %s, retry_at = now()", moment)
    assert len(writebehind.retry_waiting("default").remaining) == 1
    soon = ParkedWrite.objects.filter(retry_at__range=(Now(), Now() + timedelta(seconds=61)))
    assert soon.exists()


@pytest.mark.parametrize("column", ["landed_at", "sampled_at"])
def test_a_checkpoint_does_not_stop_its_partition(moment: str, column: str) -> None:
    """The drain of the partition continues, and the figures of all partitions can be read."""
    meter = Meter.objects.create()
    with one_partition():
        add_one(meter)
        run(f"UPDATE cachebackend_writebehindcheckpoint SET {column} = %s", moment)
        assert [status.error for status in writebehind.partition_statuses()] == [None]
        assert not writebehind.find_faults()
        Meter.behind.update(meter.pk, count=F("count") + 1)
        writebehind.seal_dirty()
        drain_all()
        meter.refresh_from_db()
        assert meter.count == 2


def test_the_nearest_time_is_fetched(moment: str) -> None:
    """Rows, values and aggregates have a time that Python can hold; NULL stays None."""
    run(
        "INSERT INTO cachebackend_writebehindcheckpoint (label, partition, incarnation, batch, seal, "
        "is_ended, rows, missing, landed_at) VALUES ('shop.gone', 0, 'a', 0, '', false, 0, 0, %s)",
        moment,
    )
    run(
        "INSERT INTO cachebackend_outboxrow (keys, node, is_intent, label, created) "
        "VALUES ('', '', false, '', %s)",
        moment,
    )
    checkpoints = WriteBehindCheckpoint.objects.filter(label="shop.gone")
    year = 1 if moment in {"-infinity", "0044-03-15 BC"} else 9999
    last = checkpoints.aggregate(last=Max("landed_at"))["last"]
    created = OutboxRow.objects.values_list("created", flat=True)
    times = [checkpoints.get().landed_at, last, created.order_by("created").get()]
    assert [time and time.year for time in times] == [year, year, year]
    assert checkpoints.get().sampled_at is None
