"""The relay with more rows than one run processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from importlib import import_module
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from cachebackend import RingCache, invalidation
from cachebackend.clock import SYSTEM_CLOCK, LogRateLimit
from cachebackend.invalidation import RelayResult, outbox, outbox_pages
from cachebackend.invalidation.outbox import write_row
from cachebackend.models import OutboxRow
from cachebackend.monitoring import outbox_figures
from cacheproject.services import Services
from tests.integration.test_outbox import age_rows

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


@pytest.fixture(autouse=True)
def _no_rows(db: None) -> None:
    """Delete the rows that a writer has left to the relay, because the tests count rows."""
    OutboxRow.objects.all().delete()


@pytest.fixture
def pages_of_two(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A run has time for one page, and a page has two rows."""
    relay: Any = import_module("cachebackend.invalidation.relay")
    with monkeypatch.context() as patch:
        patch.setattr(outbox_pages, "ROWS_PER_PAGE", 2)
        patch.setattr(relay, "_SHARE_OF_TIMEOUT", 0.0)
        yield
    relay._stopped_after.clear()


def keep(cache: RingCache, *names: str) -> None:
    """Write an outbox row for each key, old enough for the relay."""
    for name in names:
        outbox.write_row("default", {"default": {cache.key_bytes(name)}})
    age_rows(5)


@pytest.mark.usefixtures("pages_of_two")
def test_a_run_continues_where_the_last_one_stopped(ring_cache: RingCache) -> None:
    """And begins again with the first row after the last one. Each run says whether it saw every row."""
    keep(ring_cache, "a", "b", "c", "d", "e")
    runs = [invalidation.relay() for _ in range(5)]
    assert [run.rows for run in runs] == [2, 2, 1, 0, 0]
    assert [run.is_complete for run in runs] == [False, False, False, False, True]
    assert runs[-1].lag == 0.0


@pytest.mark.hangs
@pytest.mark.usefixtures("pages_of_two")
@pytest.mark.ring_of_nodes
def test_rows_that_remain_do_not_keep_a_run_from_the_rows_behind_them(
    ring_cache: RingCache, services: Services
) -> None:
    """The node of the first rows is down, and no run has the time for all of them and the others."""
    ring = ring_cache.client.ring
    names = [f"k{number}" for number in range(30)]
    owners = {name: ring.names[ring.owner(ring_cache.key_bytes(name))] for name in names}
    down = [name for name, owner in owners.items() if owner == "ring-a"][:5]
    healthy = next(name for name, owner in owners.items() if owner == "ring-b")
    keep(ring_cache, *down, healthy)
    services.stop("ring-a")
    try:
        rows = [invalidation.relay().rows for _ in range(4)]
        assert sum(rows) == 1
        keep(ring_cache, healthy)
        while not invalidation.relay().rows:
            assert OutboxRow.objects.count() == len(down) + 1
    finally:
        services.resume("ring-a")
    assert OutboxRow.objects.count() == len(down)


@pytest.mark.usefixtures("pages_of_two")
def test_the_command_relays_every_row(ring_cache: RingCache, capsys: pytest.CaptureFixture[str]) -> None:
    """It runs the relay until one run reaches the last row."""
    keep(ring_cache, "a", "b", "c", "d", "e")
    call_command("invalidation", "relay", "--json")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["rows"], found["keys"], found["left"]) == (5, 5, 0)
    assert found["lag_seconds"] >= 5
    assert not OutboxRow.objects.exists()


def test_only_a_transaction_of_the_relay_itself_need_not_reach_the_disk(ring_cache: RingCache) -> None:
    """Rows that a crash brings back are processed again; what the caller has written would be lost."""
    keep(ring_cache, "a")
    with CaptureQueriesContext(connection) as queries, transaction.atomic():
        assert invalidation.relay().rows == 1
    assert not any("synchronous_commit" in query["sql"] for query in queries)
    assert not OutboxRow.objects.exists()


def test_a_young_intent_is_not_a_reason_to_worry(ring_cache: RingCache) -> None:
    """An earlier release wrote it before a statement, and it is stored for a minute in any case."""
    write_row("default", {"default": {ring_cache.key_bytes("k")}})
    OutboxRow.objects.update(is_intent=True, created=timezone.now() - timedelta(seconds=30))
    call_command("invalidation", "relay", stdout=StringIO(), stderr=StringIO())
    assert (invalidation.relay().pending, outbox_figures().lag, outbox_figures().faults) == (0, 0.0, [])
    assert OutboxRow.objects.count() == 1


@pytest.mark.parametrize(("lag", "warnings"), [(2.0, 0), (30.0, 1)])
def test_the_relay_warns_of_old_rows_and_not_every_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lag: float, warnings: int
) -> None:
    """After an outage it runs every second until the last row is gone."""
    from cachebackend import tasks

    monkeypatch.setattr(tasks, "_pending_log", LogRateLimit(SYSTEM_CLOCK))
    monkeypatch.setattr(tasks.invalidation, "relay", lambda: RelayResult(pending=3, lag=lag))
    for _ in range(5):
        tasks.relay()
    assert len([each for each in caplog.messages if each.startswith("relay: 3 outbox rows")]) == warnings
