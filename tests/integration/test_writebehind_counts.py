"""What became of writes, as counters: each write is counted once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from django.conf import settings
from django.db.models import F
from django.test import override_settings

from cachebackend import uuid7
from cachebackend.counters import DrainCounts
from cachebackend.errors import NodeReplyError, RingCacheError, WriteBehindUnknownError
from cachebackend.node import Node
from cachebackend.telemetry.publisher import publish_all, total_drains
from cachebackend.writebehind.queue import project_queue
from cacheproject.services import Services
from tests.fix_services import restart_queue
from tests.integration.write_behind import drain_all
from tests.shop.models import Meter

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    """A row with a counter."""
    monkeypatch.setattr(Meter.behind.rows, "_counters", ("count",))
    return Meter.objects.create(level=5)


def add_one(meter: Meter) -> None:
    with suppress(RingCacheError):
        Meter.behind.update(meter.pk, count=F("count") + 1)


def counted() -> dict[str, int]:
    """Return what this process counted of writes, without zeros."""
    names = ("accepted", "written_through", "dropped", "unknown", "refused")
    total = project_queue().counters.total()
    return {name: count for name in names if (count := getattr(total, name))}


def with_settings(**options: Any) -> override_settings:
    return override_settings(WRITE_BEHIND=settings.WRITE_BEHIND | options)


def test_a_write_that_the_node_takes_is_accepted(meter: Meter) -> None:
    """Of one row, of many, in a pipeline, a creation, a deletion, and in asyncio."""
    add_one(meter)
    Meter.behind.update_many({uuid7(): {"count": F("count") + 1} for _ in range(3)})
    with Meter.behind.pipelined() as pipeline:
        pipeline.update(meter.pk, count=F("count") + 1)
    created = Meter.behind.create(level=1)
    Meter.behind.delete(created.pk)
    asyncio.run(Meter.behind.aupdate(meter.pk, count=F("count") + 1))
    assert counted() == {"accepted": 8}


def test_drained_rows_are_counted_with_those_that_do_not_exist(meter: Meter) -> None:
    """Two accepted writes of a row are one row."""
    add_one(meter)
    add_one(meter)
    Meter.behind.update(uuid7(), count=F("count") + 1)
    drain_all()
    total: DrainCounts = project_queue().counters.total()
    assert (total.accepted, total.rows, total.missing) == (3, 1, 1)


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ({}, "refused"),
        ({"on_unavailable": "drop"}, "dropped"),
        ({"on_unavailable": "write_through"}, "refused"),  # nothing shows what the node holds of the row
    ],
)
def test_a_write_to_a_node_that_is_down(
    meter: Meter, services: Services, options: dict[str, Any], outcome: str
) -> None:
    """It raises or is dropped, according to the settings; so is each row of many."""
    with with_settings(**options):
        services.kill("queue-a")
        try:
            add_one(meter)
            with suppress(RingCacheError):
                Meter.behind.update_many({uuid7(): {"count": F("count") + 1} for _ in range(2)})
            assert counted() == {outcome: 3}
        finally:
            restart_queue(services)


@pytest.mark.parametrize(
    ("on_full", "outcome"),
    [("raise", "refused"), ("write_through", "written_through")],
)
def test_a_write_to_a_full_queue(meter: Meter, on_full: str, outcome: str) -> None:
    """It raises, or goes to the database at once."""
    with with_settings(high_water=1, partitions=1, on_full=on_full):
        Meter.behind.update(uuid7(), count=F("count") + 1)
        add_one(meter)
        assert counted() == {"accepted": 1, outcome: 1}


def test_a_write_without_an_answer_is_unknown(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node may have taken it."""
    lost = WriteBehindUnknownError("node 'queue-a' did not answer")
    monkeypatch.setattr(Node, "call", lambda *_: lost)
    with pytest.raises(WriteBehindUnknownError):
        Meter.behind.update(meter.pk, count=F("count") + 1)
    assert counted() == {"unknown": 1}


def test_a_write_that_the_node_refuses_is_refused(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is one that contradicts what is queued."""
    created = Meter.behind.create(level=1)
    with suppress(RingCacheError):
        Meter.behind.create(pk=created.pk, level=2)
    monkeypatch.setattr(Node, "call", lambda *_: NodeReplyError("ERR no"))
    add_one(meter)
    assert counted() == {"accepted": 1, "refused": 2}


def test_a_write_that_is_not_valid_is_not_counted(meter: Meter) -> None:
    """It is not sent to any node."""
    with suppress(RingCacheError):
        Meter.behind.update(meter.pk, level="many")
    assert counted() == {}


def test_sites_on_the_same_queue_nodes_have_counts_of_their_own(meter: Meter, settings: Any) -> None:
    """Without a ring cache the queue nodes store them: those of one prefix are those of one queue."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    with with_settings(prefix="one"):
        add_one(meter)
        publish_all()
        assert total_drains().counts.accepted == 1
    with with_settings(prefix="two"):
        publish_all()
        assert total_drains().counts.accepted == 0
