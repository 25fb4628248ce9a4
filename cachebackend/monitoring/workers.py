"""Whether a Celery worker runs the periodic tasks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from cachebackend.conf import write_behind_options
from cachebackend.errors import RingCacheError
from cachebackend.invalidation.watched import watched_models
from cachebackend.monitoring.faults import MAX_RUN_AGE_SECONDS, Fault, max_tick_age
from cachebackend.monitoring.processes import ProcessFigures
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.telemetry.heartbeat import last_runs

__all__ = ["WorkerFigures", "cause_of_absence", "worker_figures"]

#: Celery's queue of the periodic tasks, if no worker names it: the default of ``schedule.task_routes``.
PERIODIC_QUEUE = "periodic"


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """When the periodic tasks last ran.

    Attributes:
        last_runs: In seconds since 1970, by the task's name; a task that never ran is not there.
            None if no node answered.
        faults: Which tasks should run and do not.
    """

    last_runs: Mapping[str, float] | None = None
    faults: list[Fault] = field(default_factory=list)

    @property
    def last_seen(self) -> float | None:
        """When any of the tasks last ran; None if none ever did."""
        return max((self.last_runs or {}).values(), default=None)


def worker_figures(processes: ProcessFigures | None = None) -> WorkerFigures:
    """Return when the periodic tasks last ran; the nodes that did not answer are a fault of the alias.

    Args:
        processes: The processes of the site; None: they are not known.
    """
    try:
        runs = last_runs()
    except RingCacheError:
        return WorkerFigures()
    return WorkerFigures(runs, worker_faults(runs, _max_ages(), time.time(), processes))


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
    tasks = " and ".join(sorted(late + never))
    if processes is None or processes.processes is None:
        message = f"No worker runs {tasks}: start a Celery worker with beat."
        return [Fault(FaultKind.NO_WORKER, message, since)]
    kind, cause = cause_of_absence(processes, min(late + never))
    return [Fault(kind, f"{cause}, so {tasks} {'do' if ' ' in tasks else 'does'} not run.", since)]


def cause_of_absence(processes: ProcessFigures, task: str) -> tuple[FaultKind, str]:
    """Return why a periodic task does not run: beat is missing, a worker, or a worker of its queue."""
    workers, beats = processes.of_kind("worker"), processes.of_kind("beat")
    if not workers and not beats:
        return FaultKind.NO_WORKER, "No Celery worker runs, and no beat"
    if not workers:
        return FaultKind.NO_WORKER, f"Beat runs ({beats[0].label}), but no worker does"
    queue = processes.queue_of(task, PERIODIC_QUEUE)
    if not processes.serving(queue):
        return FaultKind.NO_WORKER, f"No worker serves the queue {queue!r} ({workers[0].label} does not)"
    if not beats:
        return FaultKind.NO_BEAT, f"A worker runs ({workers[0].label}), but beat does not"
    text = f"A worker ({workers[0].label}) and beat ({beats[0].label}) run, but not the tasks"
    return FaultKind.TASKS_LATE, text


def _max_ages() -> dict[str, float]:
    """Return the tasks that this project needs, and how many seconds ago each may have run.

    ``relay`` is needed where models are watched, ``tick`` where write-behind is on.
    """
    options = write_behind_options()
    needed: dict[str, float] = {}
    if watched_models():
        needed["relay"] = MAX_RUN_AGE_SECONDS
    if options.is_on:
        needed["tick"] = max_tick_age(options)
    return needed
