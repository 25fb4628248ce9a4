"""Processes whose clocks are wrong: what they record and what they show is right all the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db.models import F

from cachebackend import uuid7
from cachebackend.monitoring import queue_figures, worker_figures
from cachebackend.telemetry.heartbeat import last_runs, record_run
from tests.shop.models import Meter

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
AN_HOUR = 3600.0


@contextmanager
def clock_ahead(seconds: float) -> Iterator[None]:
    """Be a process whose clock is ahead for a block."""
    now = time.time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: now() + seconds)
        yield


@pytest.mark.parametrize("seconds", [AN_HOUR, -AN_HOUR])
def test_a_run_is_recorded_by_the_clock_of_the_nodes(seconds: float) -> None:
    """A worker whose clock is ahead would hide for an hour that it has ended."""
    with clock_ahead(seconds):
        record_run("tick")
    assert abs(last_runs()["tick"] - time.time()) < AN_HOUR / 2


@pytest.mark.parametrize("seconds", [AN_HOUR, -AN_HOUR])
@pytest.mark.postgres
def test_a_process_shows_ages_by_the_clock_of_the_nodes(seconds: float) -> None:
    """It does not take tasks that run for late, nor a write that was queued just now."""
    record_run("tick")
    record_run("relay")
    Meter.behind.update(uuid7(), count=F("count") + 1)
    with clock_ahead(seconds):
        worker, queues = worker_figures(), queue_figures()
        assert worker.faults == []
        assert worker.last_seen is not None
        assert abs(worker.last_seen - time.time()) < AN_HOUR / 2
        assert queues.faults == []
        assert queues.oldest_seconds is not None
        assert queues.oldest_seconds < AN_HOUR / 2
