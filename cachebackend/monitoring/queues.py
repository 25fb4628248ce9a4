"""Deletes that are owed, writes that wait, and whether a worker sees to both."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from django.db import Error, connections

from cachebackend import writebehind
from cachebackend.conf import write_behind_options
from cachebackend.counters import DrainCounts
from cachebackend.errors import ConfigurationError, RingCacheError
from cachebackend.histogram import Histogram
from cachebackend.invalidation import outbox_lag
from cachebackend.invalidation.outbox import has_outbox
from cachebackend.invalidation.watched import watched_models
from cachebackend.models import OutboxRow
from cachebackend.monitoring.faults import Fault
from cachebackend.monitoring.ring import MINUTES, RECENT_MINUTES
from cachebackend.options import WriteBehindOptions
from cachebackend.telemetry.heartbeat import last_runs
from cachebackend.telemetry.publisher import drains_by_minute
from cachebackend.writebehind.queue import monitoring_queue

__all__ = ["QueueFigures", "queue_figures"]

#: A row that is owed for longer says that no relay runs, or a node is gone.
WORRYING_LAG_SECONDS = 10.0
#: A write that has waited for so many flush intervals says that no worker lands it.
WORRYING_INTERVALS = 30
#: A periodic task that has not run for longer than this, and for so many of its intervals, does not run.
WORRYING_RUN_SECONDS, WORRYING_RUNS = 10.0, 5


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """Invalidation and write-behind.

    Attributes:
        lag: Age of the oldest delete that is owed, in seconds; None if it cannot be seen, as for
            all that follow.
        owed: How many outbox rows there are.
        last_runs: When each periodic task of a worker last ran, in seconds since 1970, by its name.
        is_on: Whether write-behind is set up.
        partitions: The partitions that hold or have held writes.
        nodes: The queue nodes by name, and whether each answers.
        waiting: Changes that wait.
        oldest: For how long the oldest has, in seconds.
        parked: Writes that Postgres refused.
        rows: Rows that landed batches changed, since the queues were new.
        landed: Rows that landed in each of the last minutes, the oldest first; None for a minute that
            cannot be seen.
        rate: Rows that landed a second, recently.
        drain_times: What each batch of the hour took to land.
        faults: What is wrong.
    """

    lag: float | None = None
    owed: int | None = None
    last_runs: Mapping[str, float] | None = None
    is_on: bool = False
    partitions: list[writebehind.PartitionStatus] = field(default_factory=list)
    nodes: dict[str, bool] = field(default_factory=dict)
    waiting: int | None = None
    oldest: float | None = None
    parked: int | None = None
    rows: int | None = None
    landed: list[int | None] = field(default_factory=list)
    rate: float | None = None
    drain_times: Histogram = field(default_factory=Histogram)
    faults: list[Fault] = field(default_factory=list)


def queue_figures() -> QueueFigures:
    """Return how invalidation and write-behind are; what cannot be seen is a fault."""
    options = write_behind_options()
    figures = _with_last_runs(_outbox(), options)
    if not options.nodes:
        return figures
    try:
        return _with_queues(replace(figures, is_on=True), options)
    except (RingCacheError, ConfigurationError) as error:
        faults = [*figures.faults, Fault("waiting", f"The queue cannot be seen: {error}")]
        return replace(figures, is_on=True, faults=faults)


def _outbox() -> QueueFigures:
    try:
        databases = [using for using in connections if has_outbox(using)]
        lag = max(map(outbox_lag, databases), default=0.0)
        owed = sum(OutboxRow.objects.using(using).count() for using in databases)
    except Error as error:
        return QueueFigures(faults=[Fault("owed", f"The database does not answer: {error}")])
    faults = []
    if lag > WORRYING_LAG_SECONDS:
        faults.append(
            Fault("owed", "Deletes are owed: is a worker running, is every node up?", time.time() - lag)
        )
    return QueueFigures(lag, owed, faults=faults)


def _with_last_runs(figures: QueueFigures, options: WriteBehindOptions) -> QueueFigures:
    try:
        runs = last_runs()
    except RingCacheError:  # the nodes' own faults are told with them
        return figures
    return replace(figures, last_runs=runs, faults=[*_worker_faults(runs, options), *figures.faults])


def _worker_faults(runs: Mapping[str, float], options: WriteBehindOptions) -> Iterator[Fault]:
    now = time.time()
    most = {}
    if watched_models():
        most["relay"] = WORRYING_RUN_SECONDS
    if options.nodes:
        most["tick"] = max(WORRYING_RUN_SECONDS, WORRYING_RUNS * options.flush_interval)
    late = [task for task, seconds in most.items() if task in runs and now - runs[task] > seconds]
    never = [task for task in most if task not in runs]
    if late or never:
        since = min((runs[task] for task in late), default=None)
        tasks = " and ".join(sorted(late + never))
        yield Fault("worker", f"No worker runs {tasks}: start one, with beat.", since)


def _with_queues(figures: QueueFigures, options: WriteBehindOptions) -> QueueFigures:
    partitions = writebehind.partition_statuses()
    away = {each.node: str(each.error) for each in partitions if not each.is_queue_seen}
    figures = replace(
        figures,
        partitions=[each for each in partitions if each.fields or each.landed or each.parked or each.error],
        nodes={node.name: node.name not in away for node in options.all_nodes},
    )
    faults = list(figures.faults)
    if away:
        states = {node.name: node.breaker.state for node in monitoring_queue().nodes if node.breaker}
        faults += [
            Fault(
                "waiting",
                f"Queue node {name} does not answer: {states[name].error or error}",
                states[name].since,
            )
            for name, error in away.items()
        ]
    else:
        faults += [Fault("waiting", each) for each in writebehind.node_faults()]
        figures = _with_drains(
            replace(
                figures,
                waiting=sum(each.fields for each in partitions),
                oldest=max((each.oldest_seconds for each in partitions), default=0.0),
            )
        )
        if figures.oldest and figures.oldest > WORRYING_INTERVALS * options.flush_interval:
            faults.append(
                Fault(
                    "waiting",
                    f"{figures.waiting:,} changes wait to land: is a worker running?",
                    time.time() - figures.oldest,
                )
            )
    if figures.owed is not None and all(each.is_database_seen for each in partitions):
        by_partition = {each.partition: each for each in partitions if each.parked}
        figures = replace(
            figures,
            parked=sum(each.parked for each in by_partition.values()),
            rows=None if away else sum(each.rows for each in partitions),
        )
        if figures.parked:
            since = min(filter(None, (each.parked_since for each in by_partition.values())), default=None)
            faults.append(
                Fault("waiting", f"Postgres refused {figures.parked} writes, which are parked.", since)
            )
    elif figures.lag is not None:
        errors = {each.error for each in partitions if each.error and each.is_queue_seen}
        faults += [Fault("waiting", error) for error in sorted(errors)]
    return replace(figures, faults=faults)


def _with_drains(figures: QueueFigures) -> QueueFigures:
    minutes = list(drains_by_minute(MINUTES).values())
    hour = DrainCounts()
    for counts in filter(None, minutes):
        hour.add(counts)
    landed = [None if counts is None else counts.rows for counts in minutes]
    seconds = (RECENT_MINUTES - 1) * 60 + time.time() % 60
    rate = sum(filter(None, landed[-RECENT_MINUTES:])) / seconds
    return replace(figures, landed=landed, rate=rate, drain_times=hour.drain_times)
