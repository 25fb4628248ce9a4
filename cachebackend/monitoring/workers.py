"""Whether a Celery worker runs the periodic tasks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple

from cachebackend.conf import (
    PERIODIC_QUEUE,
    beat_entries,
    has_write_behind,
    ring_aliases,
    write_behind_options,
)
from cachebackend.errors import RingCacheError
from cachebackend.invalidation.watched import watched_models
from cachebackend.monitoring.faults import Fault, max_run_age, max_tick_age
from cachebackend.monitoring.processes import ProcessFigures
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.telemetry.heartbeat import last_runs

__all__ = ["WorkerFigures", "cause_of_absence", "worker_figures"]


class Absence(NamedTuple):
    """Why a periodic task does not run.

    Attributes:
        kind: The kind of the fault.
        text: What is missing.
        way_out: What to do.
    """

    kind: FaultKind
    text: str
    way_out: str


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """When the periodic tasks last ran.

    Attributes:
        last_runs: In seconds since 1970, by the task's name; a task that never ran is not there.
            None if no node answered, or no ring cache stores the times.
        faults: Which tasks should run and do not.
        late: The names of those tasks.
    """

    last_runs: Mapping[str, float] | None = None
    faults: list[Fault] = field(default_factory=list)
    late: Sequence[str] = ()

    @property
    def is_relay_late(self) -> bool | None:
        """Whether the relay does not run; None: that is not known."""
        return None if self.last_runs is None else "relay" in self.late

    @property
    def last_seen(self) -> float | None:
        """When any of the tasks last ran; None if none ever did."""
        return max((self.last_runs or {}).values(), default=None)


def worker_figures(processes: ProcessFigures | None = None) -> WorkerFigures:
    """Return when the periodic tasks last ran; the nodes that did not answer are a fault of the alias.

    If that is not known, a worker or beat that does not report itself is a fault all the same.

    Args:
        processes: The processes of the site; None: they are not known.
    """
    max_ages = _max_ages()
    try:
        runs = last_runs()
    except RingCacheError:
        faults = [] if processes is None else list(_absence_faults(processes, [*max_ages]))
        return WorkerFigures(faults=[each for each in faults if each.kind is not FaultKind.TASKS_LATE])
    now = time.time()
    late = [task for task, seconds in max_ages.items() if now - runs.get(task, 0.0) > seconds]
    return WorkerFigures(runs, worker_faults(runs, max_ages, now, processes), late)


def worker_faults(
    runs: Mapping[str, float],
    max_ages: Mapping[str, float],
    now: float,
    processes: ProcessFigures | None = None,
) -> list[Fault]:
    """Return the fault of the tasks that run too rarely, or never: one fault for all of them.

    Args:
        runs: When each task last ran, in seconds since 1970.
        max_ages: The tasks that should run, and how many seconds ago each may have run.
        now: The time, in seconds since 1970.
        processes: The processes of the site; None: they are not known.
    """
    late = [task for task, seconds in max_ages.items() if task in runs and now - runs[task] > seconds]
    never = [task for task in max_ages if task not in runs]
    if not late and not never:
        return []
    since = min((runs[task] for task in late), default=None)
    if processes is None or processes.processes is None:
        message = f"No worker runs {' and '.join(sorted(late + never))}: start a Celery worker with beat."
        return [Fault(FaultKind.NO_WORKER, message, since)]
    return list(_absence_faults(processes, late + never, since))


def _absence_faults(
    processes: ProcessFigures, tasks: Sequence[str], since: float | None = None
) -> Iterator[Fault]:
    """Yield why tasks do not run, if there are any, and if processes are known."""
    if processes.processes is None or not tasks:
        return
    absence = cause_of_absence(processes, min(tasks))
    text = " and ".join(sorted(tasks))
    message = f"{absence.text}, so {text} {'do' if len(tasks) > 1 else 'does'} not run."
    way_out = f"{absence.way_out[0].upper()}{absence.way_out[1:]}."
    yield Fault(absence.kind, message, since, way_out)


def cause_of_absence(processes: ProcessFigures, task: str) -> Absence:
    """Return why a periodic task does not run: beat is missing, a worker, or a worker of its queue."""
    workers, beats = processes.of_kind("worker"), processes.of_kind("beat")
    queue, beat = processes.queue_of(task), processes.celery("beat")
    worker = processes.celery("worker", queue)
    if not workers and not beats:
        way_out = f"start a worker, {worker}, and beat, {beat}"
        return Absence(FaultKind.NO_WORKER, "No Celery worker runs, and no beat", way_out)
    if not workers:
        text = f"Beat runs ({beats[0].label}), but no worker does"
        return Absence(FaultKind.NO_WORKER, text, f"start a worker: {worker}")
    queue = queue or PERIODIC_QUEUE
    way_out = f"start a worker that serves it: {processes.celery('worker', queue)}"
    if not processes.serving(queue):
        text = f"No worker serves the queue {queue!r} ({workers[0].label} does not)"
        return Absence(FaultKind.NO_WORKER, text, way_out)
    if not beats:
        text = f"A worker runs ({workers[0].label}), but beat does not"
        return Absence(FaultKind.NO_BEAT, text, f"start beat, once: {beat}")
    broker = f"the broker at {beats[0].broker}" if beats[0].broker else "the broker"
    both = f"A worker ({workers[0].label}) and beat ({beats[0].label}) run"
    text = f"{both}, but {broker} does not pass the tasks on, or the worker is busy"
    way_out = (
        f"look whether {broker} answers and has memory; if the worker is busy, start another one for the "
        f"queue: {processes.celery('worker', queue)}"
    )
    return Absence(FaultKind.TASKS_LATE, text, way_out)


def _max_ages() -> dict[str, float]:
    """Return the tasks that this project needs, and how many seconds ago each may have run.

    ``relay`` is needed where models are watched and there is a ring cache, ``tick`` where write-behind is on.
    """
    needed: dict[str, float] = {}
    if watched_models() and ring_aliases():
        needed["relay"] = max_run_age(_interval("relay"))
    if has_write_behind():
        needed["tick"] = max_tick_age(write_behind_options())
    return needed


def _interval(task: str) -> float:
    """Return the seconds between two runs of a task in Celery's schedules; 0.0 if they do not say."""
    intervals = (entry.get("schedule") for entry in beat_entries(task))
    seconds = (each.total_seconds() if isinstance(each, timedelta) else each for each in intervals)
    return min((float(each) for each in seconds if isinstance(each, int | float)), default=0.0)
