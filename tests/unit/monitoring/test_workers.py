"""Whether a worker runs the periodic tasks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from cachebackend.errors import NodeUnavailableError
from cachebackend.monitoring import workers
from cachebackend.monitoring.processes import ProcessFigures
from cachebackend.monitoring.workers import WorkerFigures, worker_faults, worker_figures
from cachebackend.schedule import beat_schedule
from cachebackend.telemetry.processes import Process

BOTH = {"relay": 10.0, "tick": 10.0}


@pytest.mark.parametrize(
    ("runs", "message", "since"),
    [
        ({"relay": 95.0, "tick": 95.0}, None, None),
        ({"relay": 89.0, "tick": 95.0}, "No worker runs relay: start a Celery worker with beat.", 89.0),
        ({"relay": 80.0, "tick": 70.0}, "No worker runs relay and tick: start", 70.0),
        ({"relay": 95.0}, "No worker runs tick: start", None),
        ({"relay": 70.0}, "No worker runs relay and tick: start", 70.0),
        ({}, "No worker runs relay and tick: start", None),
    ],
)
def test_tasks_that_are_late_or_never_ran_are_one_fault(
    runs: Mapping[str, float], message: str | None, since: float | None
) -> None:
    """It began when the first of those that are late last ran; for a task that never ran that is unknown."""
    found = [(fault.message, fault.since) for fault in worker_faults(runs, BOTH, now=100.0)]
    if message is None:
        assert found == []
    else:
        [(text, began)] = found
        assert text.startswith(message)
        assert began == since


@pytest.mark.parametrize(
    ("models", "nodes", "needed"),
    [
        ([object], ["redis://q:6379/0?name=q"], "relay and tick"),
        ([object], [], "relay"),
        ([], ["redis://q:6379/0?name=q"], "tick"),
        ([], [], None),
    ],
)
def test_only_the_tasks_that_a_project_needs_are_missed(
    monkeypatch: pytest.MonkeyPatch, settings: Any, models: list[type], nodes: list[str], needed: str | None
) -> None:
    """``relay`` counts where models are watched, ``tick`` where write-behind is on; others need no worker."""
    monkeypatch.setattr(workers, "watched_models", lambda: models)
    monkeypatch.setattr(workers, "last_runs", dict)
    settings.WRITE_BEHIND = {"nodes": nodes}
    messages = [fault.message for fault in worker_figures().faults]
    assert messages == ([f"No worker runs {needed}: start a Celery worker with beat."] if needed else [])


@pytest.mark.parametrize(
    ("schedule", "is_late"),
    [(beat_schedule(), True), (beat_schedule(relay_interval=15), False), ({}, True), (None, True)]
    + [
        ({"mine": {"task": "cachebackend.tasks.relay", "schedule": each}}, is_late)
        for each, is_late in ((timedelta(minutes=1), False), (timedelta(seconds=2), True), ("?", True))
    ],
)
def test_a_task_is_late_after_five_of_its_intervals(
    monkeypatch: pytest.MonkeyPatch, settings: Any, schedule: Any, is_late: bool
) -> None:
    """The interval is that of the schedule in the settings; one that is not known is short."""
    settings.CELERY_BEAT_SCHEDULE = schedule
    settings.WRITE_BEHIND = {"nodes": []}
    monkeypatch.setattr(workers, "watched_models", lambda: [object])
    monkeypatch.setattr(workers, "last_runs", lambda: {"relay": time.time() - 20})
    assert bool(worker_figures().faults) == is_late


def test_nodes_that_do_not_answer_are_not_a_fault_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the tasks ran is then unknown; the nodes have their own faults."""

    def refuse() -> None:
        message = "node 'ring-a' is not reachable"
        raise NodeUnavailableError(message)

    monkeypatch.setattr(workers, "last_runs", refuse)
    figures = worker_figures()
    assert (figures.last_runs, figures.last_seen, figures.faults) == (None, None, [])


def process(kind: str, **named: Any) -> Process:
    return Process("p", kind, "h", 7, "celery", "1.0", 1.0, {}, **named)


@pytest.mark.parametrize(
    ("processes", "way_out"),
    [
        ([], "Start a worker, `celery -A yourproject worker`, and beat, `celery -A yourproject beat`."),
        ([process("beat", app="shop")], "Start a worker: `celery -A shop worker`."),
        (
            [process("worker", app="shop", queues=["drains"]), process("beat", app="shop")],
            "Start a worker that serves it: `celery -A shop worker -Q periodic`.",
        ),
        (
            [process("worker", app="shop.jobs", queues=["drains"], routes={"relay": "often"})],
            "Start a worker that serves it: `celery -A shop.jobs worker -Q often`.",
        ),
        ([process("worker", app="shop")], "Start beat, once: `celery -A shop beat`."),
        (
            [process("worker", app="shop"), process("beat", broker="b:6379")],
            (
                "Look whether the broker at b:6379 answers and has memory; if the worker is busy, start "
                "another one for the queue: `celery -A shop worker -Q periodic`."
            ),
        ),
    ],
)
def test_the_way_out_is_the_command(processes: list[Process], way_out: str) -> None:
    """With the name of the app and the queue, as far as a process or the settings know them."""
    [fault] = worker_faults({}, BOTH, 100.0, ProcessFigures(processes))
    assert fault.way_out == way_out


def test_the_settings_name_the_queue_while_no_worker_runs(settings: Any) -> None:
    """Otherwise a worker that is started without a queue serves all of them."""
    settings.CELERY_TASK_ROUTES = {"cachebackend.tasks.relay": {"queue": "often"}}
    [fault] = worker_faults({}, BOTH, 100.0, ProcessFigures([process("beat")]))
    assert fault.way_out == "Start a worker: `celery -A yourproject worker -Q often`."


def test_whether_the_relay_runs_may_be_unknown() -> None:
    """If no node says when it ran: then nothing else says that it runs."""
    assert WorkerFigures().is_relay_late is None
    assert WorkerFigures({}, late=["relay"]).is_relay_late is True
    assert WorkerFigures({"relay": 1.0}).is_relay_late is False
