"""Why queued writes of a partition do not reach the database, and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TypeVar

from django.db import Error, router

from cachebackend import protocol, writebehind
from cachebackend.client.queue import QueueClient
from cachebackend.conf import DRAIN_QUEUE, write_behind_options
from cachebackend.errors import RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.monitoring.blocking import BlockingSession, blocking_sessions
from cachebackend.monitoring.faults import max_tick_age, max_waiting_age
from cachebackend.monitoring.formatting import and_more, counted, duration, moment
from cachebackend.monitoring.processes import ProcessFigures, process_figures
from cachebackend.monitoring.queue_nodes import queue_node_figures
from cachebackend.monitoring.workers import cause_of_absence
from cachebackend.options import WriteBehindOptions
from cachebackend.protocol.queue import Partition, QueueState
from cachebackend.telemetry.heartbeat import last_runs
from cachebackend.writebehind import PartitionStatus
from cachebackend.writebehind.checkpoints import Mismatch
from cachebackend.writebehind.queue import configured_partitions, model_named, monitoring_queue
from cachebackend.writebehind.versions import version_fault

__all__ = ["Facts", "Kind", "Reason", "databases_of", "find_reasons", "reasons_of", "summaries"]

T = TypeVar("T")
#: A failure that is older is no longer the reason: a drain would have failed again since, even one that is
#: ended by a limit of time.
FAILED_SECONDS = 300
#: By how many seconds a drain may seem to begin after its own transaction: it is by another clock.
MAX_LATER_SECONDS = 1.0

_RESTORE_OR_KEEP = (
    "restore a later state of the database, or drain what the queue holds: "
    "`manage.py writebehind repair --keep`"
)
_KEEP_OR_DROP = (
    "decide: `manage.py writebehind repair --keep` drains what the queue holds, and what was drained before "
    "counts twice; `--drop` deletes it, and what was not drained is lost"
)
#: For each way in which a queue contradicts its checkpoint what is wrong, and what to do about it.
_STOPPED = {
    Mismatch.QUEUE_IS_GONE: (
        f"{Mismatch.QUEUE_IS_GONE}; what it held and was not drained is lost unless its file is restored",
        "start the node with its file, or accept the loss: `manage.py writebehind repair --keep`",
    ),
    Mismatch.QUEUE_IS_OLDER: (str(Mismatch.QUEUE_IS_OLDER), _KEEP_OR_DROP),
    Mismatch.DATABASE_IS_OLDER: (str(Mismatch.DATABASE_IS_OLDER), _RESTORE_OR_KEEP),
    Mismatch.BATCH_IS_MISSING: (
        f"{Mismatch.BATCH_IS_MISSING}; its writes are lost",
        "drain the batches after it: `manage.py writebehind repair --keep`",
    ),
}


class Kind(StrEnum):
    """The kinds of reasons."""

    MISSING = "missing"
    REMOVED = "removed"
    STOPPED = "stopped"
    CLOSED = "closed"
    REFUSING = "refusing"
    BLOCKED = "blocked"
    NEWER_CODE = "newer code"
    NO_SCHEDULE = "no schedule"
    FAILING = "failing"
    NO_WORKER = "no worker"
    WAITING = "waiting"
    SLOW = "slow"
    PARKED = "parked"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why writes of a partition do not reach the database. The attributes are keys of ``status --json``.

    Attributes:
        partition: The partition.
        kind: ``missing``: a server does not answer; ``removed``: the model is gone; ``stopped``: queue
            and checkpoint contradict each other; ``closed``: the number of partitions is being changed, so
            its node takes no writes; ``refusing``: its node refuses writes, because it cannot write its
            file; ``blocked``: a session in the database holds the partition's lock, or rows;
            ``newer code``: its next batch waits for a worker with newer code; ``no schedule``: no
            ``tick`` runs; ``waiting``: the workers wait before they try its database again;
            ``failing``: its drains fail, with this error; ``no worker``: a drain was
            requested and none began; ``slow``: drains run, but not fast enough; ``parked``: Postgres
            refused writes.
        text: What is wrong.
        way_out: What to do about it.
        since: When it began, in seconds since 1970; None if that is not known.
    """

    partition: Partition
    kind: Kind
    text: str
    way_out: str
    since: float | None = None

    def __str__(self) -> str:
        return f"{self.partition}: {self.text}; {self.way_out}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the partitions.

    Attributes:
        statuses: Their queues.
        stopped: How the queue of a stopped partition contradicts its checkpoint.
        closed: The partitions whose node takes no writes, because the number of partitions is changed.
        refusing: Why a node refuses writes, by its name.
        locks: The session that holds a partition's lock, or rows that its writes need.
        versions: Why a partition's next batch waits for newer code.
        removed: The partitions with queued writes whose models are gone.
        requested: The partitions for which a drain was requested that has not begun.
        last_tick: When ``tick`` last ran, in seconds since 1970; 0.0: never; None: not known.
        processes: The processes of the site.
        databases: The database of each partition.
    """

    statuses: Sequence[PartitionStatus] = ()
    stopped: Mapping[Partition, writebehind.Fault] = field(default_factory=dict)
    closed: Sequence[Partition] = ()
    refusing: Mapping[str, str] = field(default_factory=dict)
    locks: Mapping[Partition, BlockingSession] = field(default_factory=dict)
    versions: Mapping[Partition, str] = field(default_factory=dict)
    removed: Sequence[Partition] = ()
    requested: AbstractSet[Partition] = frozenset()
    last_tick: float | None = None
    processes: ProcessFigures = field(default_factory=ProcessFigures)
    databases: Mapping[Partition, str] = field(default_factory=dict)


def find_reasons(
    statuses: Sequence[PartitionStatus], processes: ProcessFigures | None = None
) -> list[Reason]:
    """Return why partitions do not reach the database; none of a partition that does.

    A fact that a server does not return is left out: the statuses have the server's error.

    Args:
        statuses: What ``partition_statuses`` returned.
        processes: The processes of the site, if the caller has read them.
    """
    options, now = write_behind_options(), time.time()
    age = max_waiting_age(options)
    late = [each.partition for each in statuses if _waits(each, age)]
    client = monitoring_queue()
    facts = Facts(
        statuses,
        stopped=_read(lambda: {fault.partition: fault for fault in writebehind.find_faults()}, {}),
        removed=_read(
            lambda: [each for removed in writebehind.removed_models() for each in removed.partitions], []
        ),
        closed=_read(partial(_closed, client), []),
        refusing=_read(_refusing, {}) if late else {},
        locks=_read(partial(blocking_sessions, late), {})
        if any(each.parked or _waits(each, age / 2) for each in statuses)
        else {},
        versions=_read(partial(_versions, late), {}) if late else {},
        requested=_read(lambda: client.run(protocol.queue.pending_requests(client.context, late)), set()),
        last_tick=_read(lambda: last_runs().get("tick", 0.0), None),
        processes=processes or (process_figures() if late else ProcessFigures()),
        databases=databases_of(late),
    )
    return list(reasons_of(facts, options, now))


def reasons_of(facts: Facts, options: WriteBehindOptions, now: float) -> Iterator[Reason]:
    """Yield the reasons that facts show: at most one why a partition is not drained, and its parked writes.

    Args:
        facts: What is known.
        options: The settings.
        now: The time, in seconds since 1970.
    """
    explained: set[Partition] = set()
    for partition in facts.removed:
        explained.add(partition)
        text = f"its model {partition.label!r} is not in this project"
        yield Reason(partition, Kind.REMOVED, text, "see `manage.py writebehind removed`")
    for partition, fault in facts.stopped.items():
        explained.add(partition)
        yield Reason(partition, Kind.STOPPED, *_STOPPED[fault.mismatch], fault.agreed_at)
    for partition in facts.closed:
        if partition not in explained:
            explained.add(partition)
            text = "its node takes no writes, because the number of partitions is being changed"
            way_out = "if no `manage.py writebehind partitions` runs, run `writebehind partitions N` again"
            yield Reason(partition, Kind.CLOSED, text, way_out)
    for status in facts.statuses:
        if status.partition not in explained and (reason := _reason(status, facts, options, now)):
            explained.add(status.partition)
            yield reason
    parked = {status.partition: status for status in facts.statuses if status.parked}
    for partition, status in parked.items():
        text = f"{counted(status.parked or 0, 'write')} {'is' if status.parked == 1 else 'are'} parked"
        yield Reason(partition, Kind.PARKED, text, "see `manage.py writebehind parked`", status.parked_since)


def _waits(status: PartitionStatus, seconds: float) -> bool:
    """Return whether queued writes of a partition wait for longer than this."""
    return status.is_database_seen and status.oldest_seconds is not None and status.oldest_seconds > seconds


def _reason(status: PartitionStatus, facts: Facts, options: WriteBehindOptions, now: float) -> Reason | None:
    partition = status.partition
    if status.oldest_seconds is None or not (status.is_queue_seen and status.is_database_seen):
        return Reason(
            partition, Kind.MISSING, status.error or "a server does not answer", "restart the server"
        )
    lock = facts.locks.get(partition)
    age = max_waiting_age(options)
    if status.oldest_seconds <= age:
        # A drain that makes progress is not among the locks, so a locked partition need not be late
        is_blocked = lock and (lock.writes or (lock.holds_partition and status.oldest_seconds > age / 2))
        return _blocked(partition, lock, facts) if lock and is_blocked else None
    since = now - status.oldest_seconds
    if text := facts.refusing.get(status.node):
        way_out = "repair that; the drains continue by themselves"
        return Reason(partition, Kind.REFUSING, f"its node {text}", way_out, since)
    if lock:
        return _blocked(partition, lock, facts)
    if fault := facts.versions.get(partition):
        return Reason(partition, Kind.NEWER_CODE, fault, "deploy the workers", since)
    if facts.last_tick is not None and now - facts.last_tick > max_tick_age(options):
        return _unscheduled(partition, facts)
    if seconds := facts.processes.wait_seconds(facts.databases.get(partition, "")):
        using = facts.databases[partition]
        text = f"the workers wait {duration(seconds)} before they try the database {using!r} again"
        text = f"{text}: {status.drain_error}" if status.drain_error else text
        return Reason(partition, Kind.WAITING, text, "repair the database", since)
    if now - (status.failed_at or 0.0) < FAILED_SECONDS:
        text = f"its drains fail: {status.drain_error}"
        return Reason(partition, Kind.FAILING, text, "remove the cause; the workers retry it", since)
    return _slow(partition, facts, since)


def _blocked(partition: Partition, lock: BlockingSession, facts: Facts) -> Reason:
    """Return the reason of a partition that a session blocks, with the process whose drain it is."""
    drain = facts.processes.draining(str(partition)) if lock.holds_partition else None
    # A drain that began later waits for the lock, or will
    if drain is not None and lock.since is not None and drain[1] > lock.since + MAX_LATER_SECONDS:
        drain = None
    whose = "" if drain is None else f" (the drain of {drain[0].label}, since {moment(drain[1])})"
    return Reason(partition, Kind.BLOCKED, f"{lock}{whose}", lock.session.way_out, lock.since)


def _unscheduled(partition: Partition, facts: Facts) -> Reason:
    """Return the reason of a partition while no ``tick`` runs: which process is missing."""
    text, way_out = "no tick runs", "start Celery beat, and a worker that serves the queue of `tick`"
    if facts.processes.processes:
        absence = cause_of_absence(facts.processes, "tick")
        text, way_out = f"{text}: {absence.text}", absence.way_out
    return Reason(partition, Kind.NO_SCHEDULE, text, way_out, facts.last_tick or None)


def _slow(partition: Partition, facts: Facts, since: float) -> Reason:
    """Return the reason of a partition of which no failure is known."""
    if drain := facts.processes.draining(str(partition)):
        text = f"{drain[0].label} drains it since {moment(drain[1])}"
        return Reason(partition, Kind.SLOW, text, "read its log", since)
    queue = facts.processes.queue_of("drain") or DRAIN_QUEUE
    workers = facts.processes.serving(queue)
    way_out = f"start a worker: {facts.processes.celery('worker', queue)}"
    nobody = f"no worker serves the queue {queue!r}" if facts.processes.processes and not workers else ""
    if partition not in facts.requested:
        if nobody:
            return Reason(partition, Kind.NO_WORKER, nobody, way_out, since)
        return Reason(partition, Kind.SLOW, "drains do not keep up", "read the log of the workers", since)
    text = "a drain was requested, and no worker has begun it"
    if nobody:
        text += f": {nobody}"
    elif busy := [each for each in workers if each.drains]:
        text += f": {busy[0].label} drains {busy[0].drains[0][0]} since {moment(busy[0].drains[0][1])}"
    if workers:
        way_out = f"{way_out}; or raise the rate limit of its tasks"
    return Reason(partition, Kind.NO_WORKER, text, way_out, since)


def summaries(reasons: Iterable[Reason]) -> list[str]:
    """Return reasons as sentences, one for all partitions of which the same is true."""
    groups: dict[tuple[Kind, str, str], list[Reason]] = {}
    for reason in reasons:
        groups.setdefault((reason.kind, reason.text, reason.way_out), []).append(reason)
    return [str(own[0]) + and_more(len(own) - 1) for own in groups.values()]


def _closed(client: QueueClient) -> list[Partition]:
    """Return the partitions whose owner has a negative number of partitions."""
    counts = client.run(protocol.queue.partition_counts(client.context, client.context.nodes))
    closed = {node for node, count in counts.items() if count < 0}
    if not closed:
        return []
    owner = client.context.ring.owner
    return [each for each in configured_partitions(client) if owner(each.name) in closed]


def _refusing() -> dict[str, str]:
    nodes = {name: node.health.disk_faults for node in queue_node_figures() for name in node.names}
    return {name: texts[0] for name, texts in nodes.items() if texts}


def databases_of(partitions: Iterable[Partition]) -> dict[Partition, str]:
    """Return the database of each partition whose model exists."""
    models = {each: model_named(each.label) for each in partitions}
    return {each: router.db_for_write(model) for each, model in models.items() if model is not None}


def _versions(partitions: Sequence[Partition]) -> dict[Partition, str]:
    client = monitoring_queue()
    faults: dict[Partition, str] = {}
    for partition, queues in client.run(protocol.queue.queue_states(client.context, partitions)).items():
        model = model_named(partition.label)
        for state in queues.values():
            if isinstance(state, QueueState) and model is not None:
                fault = version_fault(model, router.db_for_write(model), state)
                faults |= {partition: fault} if fault else {}
    return faults


def _read(read: Callable[[], T], unknown: T) -> T:
    try:
        return read()
    except (RingCacheError, Error) as error:
        raise_interrupt(error)
        return unknown
