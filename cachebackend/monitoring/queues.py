"""The write-behind queues: what waits, what was drained, what is parked."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from cachebackend import writebehind
from cachebackend.conf import write_behind_options
from cachebackend.counters import DrainCounts
from cachebackend.errors import RingCacheError
from cachebackend.histogram import Histogram
from cachebackend.monitoring.faults import Fault, database_scope, max_waiting_age, node_scope
from cachebackend.monitoring.formatting import and_more
from cachebackend.monitoring.lost_writes import lost_faults
from cachebackend.monitoring.parked import ParkedFigures, parked_faults, parked_figures
from cachebackend.monitoring.processes import ProcessFigures
from cachebackend.monitoring.queue_nodes import (
    QueueNodeFigures,
    queue_node_faults,
    queue_node_figures,
    unserved_parts,
)
from cachebackend.monitoring.reasons import Kind, Reason, databases_of, find_reasons
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.monitoring.window import MINUTES, RECENT_MINUTES, recent_seconds, total_of, without_lost
from cachebackend.options import WriteBehindOptions
from cachebackend.telemetry.agreed_settings import QUEUE
from cachebackend.telemetry.periods import HOUR, Period
from cachebackend.telemetry.publisher import lost_write_steps, publish_write_counts, writes_by_step
from cachebackend.writebehind import PartitionStatus

__all__ = ["QueueFigures", "Totals", "kind_of", "queue_figures", "write_steps"]

#: The kinds of faults of the reasons why a partition is not drained; those that are missing have their own.
_KINDS = {
    Kind.REMOVED: FaultKind.WRITES_WAIT,
    Kind.STOPPED: FaultKind.PARTITION_STOPPED,
    Kind.CLOSED: FaultKind.PARTITION_CLOSED,
    Kind.BLOCKED: FaultKind.PARTITION_BLOCKED,
    Kind.NEWER_CODE: FaultKind.NEWER_CODE,
    Kind.NO_SCHEDULE: FaultKind.WRITES_WAIT,
    Kind.FAILING: FaultKind.DRAINS_FAIL,
    Kind.NO_WORKER: FaultKind.WRITES_WAIT,
    Kind.SLOW: FaultKind.WRITES_WAIT,
    Kind.WAITING: FaultKind.DRAINS_FAIL,
}


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over partitions; what did not answer is not in them.

    Attributes:
        waiting: Changes that wait in the queues.
        bytes: The bytes of their names and values.
        oldest_seconds: For how long the oldest of them has waited; 0.0 if none waits.
        rows: Rows that drained batches changed, since the queues were new.
        missing: Rows that those batches named and that did not exist.
    """

    waiting: int = 0
    bytes: int = 0
    oldest_seconds: float = 0.0
    rows: int = 0
    missing: int = 0

    @classmethod
    def of(cls, partitions: Sequence[PartitionStatus]) -> Totals:
        """Return the sums over partitions."""
        return cls(
            sum(each.fields or 0 for each in partitions),
            sum(each.bytes or 0 for each in partitions),
            max((each.oldest_seconds or 0.0 for each in partitions), default=0.0),
            sum(each.rows or 0 for each in partitions),
            sum(each.missing or 0 for each in partitions),
        )


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """Write-behind.

    Attributes:
        is_on: Whether the settings name queue nodes.
        partitions: The partitions that were ever written to.
        nodes: The queue nodes.
        totals: Sums over the partitions that answered.
        parked_writes: The parked writes of the databases that answered.
        is_database_up: Whether every database answered.
        minutes: What was counted in each of the last minutes, the oldest first; None for a minute that no
            node returned.
        reasons: Why queued writes do not reach the database.
        faults: What is wrong.
    """

    is_on: bool = False
    partitions: list[PartitionStatus] = field(default_factory=list)
    nodes: list[QueueNodeFigures] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    parked_writes: ParkedFigures = field(default_factory=ParkedFigures)
    is_database_up: bool = False
    minutes: list[DrainCounts | None] = field(default_factory=lambda: [None] * MINUTES)
    reasons: list[Reason] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def is_queue_up(self) -> bool:
        """Whether every queue node answers."""
        return bool(self.nodes) and all(node.is_up for node in self.nodes)

    @property
    def listed_partitions(self) -> list[tuple[PartitionStatus, list[Reason]]]:
        """The partitions of which there is anything to show, and why each one's writes are not drained."""
        used = [each for each in self.partitions if each.fields or each.landed or each.parked or each.error]
        return [
            (each, [reason for reason in self.reasons if reason.partition == each.partition]) for each in used
        ]

    @property
    def waiting(self) -> int | None:
        """Changes that wait; None if a queue node does not answer."""
        return self.totals.waiting if self.is_queue_up else None

    @property
    def bytes(self) -> int | None:
        """The bytes of what waits; None if a queue node does not answer."""
        return self.totals.bytes if self.is_queue_up else None

    @property
    def oldest_seconds(self) -> float | None:
        """For how long the oldest change has waited, in seconds; None if a queue node does not answer."""
        return self.totals.oldest_seconds if self.is_queue_up else None

    @property
    def parked(self) -> int | None:
        """Writes that are parked; None if a database does not answer."""
        return self.parked_writes.count if self.is_database_up else None

    @property
    def hour(self) -> DrainCounts | None:
        """The sum of the minutes; None if none is known."""
        return total_of(self.minutes)

    @property
    def recent(self) -> DrainCounts | None:
        """The sum of the most recent minutes; None if none is known."""
        return total_of(self.minutes[-RECENT_MINUTES:])

    @property
    def rows_by_minute(self) -> list[int | None]:
        """Rows that were drained in each minute."""
        return [None if each is None else each.rows for each in self.minutes]

    @property
    def drain_times(self) -> Histogram:
        """How long each batch of the hour took."""
        return Histogram() if self.hour is None else self.hour.drain_times

    @property
    def rows_per_second(self) -> float | None:
        """Rows drained per second in the recent minutes; None if no minute is available."""
        return None if self.recent is None else self.recent.rows / recent_seconds()


def queue_figures(processes: ProcessFigures | None = None) -> QueueFigures:
    """Return the figures of write-behind; what does not answer is a fault.

    Args:
        processes: The processes of the site, if the caller has read them.
    """
    try:
        options = write_behind_options()
        if not options.is_on:
            return QueueFigures()
        publish_write_counts()
        return _figures(options, processes)
    except RingCacheError as error:
        fault = Fault(FaultKind.QUEUE_NODE_DOWN, f"The queue cannot be read: {error}")
        return QueueFigures(is_on=True, faults=[fault])


def _figures(options: WriteBehindOptions, processes: ProcessFigures | None) -> QueueFigures:
    nodes = queue_node_figures()
    down = {name for node in nodes if not node.is_up for name in node.names} | unserved_parts()
    partitions = writebehind.partition_statuses()
    parked = parked_figures()
    has_all = not parked.unanswered and all(each.is_database_seen for each in partitions)
    figures = QueueFigures(
        is_on=True,
        partitions=partitions,
        nodes=nodes,
        totals=Totals.of(partitions),
        parked_writes=parked,
        is_database_up=has_all,
        minutes=write_steps(HOUR),
        reasons=find_reasons(partitions, processes),
    )
    faults = [*queue_node_faults(nodes, partitions)]
    unread = [each for each in partitions if each.error and each.node not in down]
    errors = {str(each.error) for each in unread if each.is_database_seen}
    faults += [Fault(FaultKind.QUEUE_NODE_DOWN, error) for error in sorted(errors)]
    faults += _database_faults([each for each in unread if not each.is_database_seen], parked)
    faults += [*_waiting_faults(figures, options), *parked_faults(parked)]
    faults += lost_faults(figures.minutes, time.time())
    return replace(figures, faults=faults)


def _database_faults(unread: Sequence[PartitionStatus], parked: ParkedFigures) -> Iterator[Fault]:
    """Yield one fault for each database that did not answer at least one of the questions."""
    databases = databases_of(each.partition for each in unread)
    errors = {f"database {databases[each.partition]!r}": str(each.error) for each in unread}
    for name, error in sorted((dict(parked.unanswered) | errors).items()):
        yield Fault(FaultKind.DATABASE_DOWN, error, scope=frozenset({name}))


def write_steps(period: Period) -> list[DrainCounts | None]:
    """Return what write-behind counted in each step of a period, the oldest first; None if not known."""
    return list(without_lost(writes_by_step(period), partial(lost_write_steps, period)).values())


def kind_of(reason: Reason) -> FaultKind:
    """Return the kind of fault that a reason is; the runbook has its section."""
    others = {
        Kind.PARKED: FaultKind.WRITES_PARKED,
        Kind.MISSING: FaultKind.QUEUE_NODE_DOWN,
        Kind.REFUSING: FaultKind.QUEUE_NODE_DISK,
    }
    return (_KINDS | others)[reason.kind]


def _waiting_faults(figures: QueueFigures, options: WriteBehindOptions) -> Iterator[Fault]:
    """Yield a fault for each kind of reason, with the first partition that has it.

    Each session that blocks partitions is a fault of its own.
    """
    by_kind: dict[tuple[Kind, str], list[Reason]] = {}
    for reason in figures.reasons:
        session = reason.way_out if reason.kind is Kind.BLOCKED else ""
        by_kind.setdefault((reason.kind, session), []).append(reason)
    for (kind, session), reasons in by_kind.items():
        if kind in _KINDS:
            others = and_more(len(reasons) - 1)
            since = min((each.since for each in reasons if each.since is not None), default=None)
            subject = "" if session else f"Queued writes are not drained: {reasons[0].partition}: "
            text = f"{subject}{reasons[0].text}{'' if session else others}."
            advice = f"{reasons[0].way_out[0].upper()}{reasons[0].way_out[1:]}."
            scope = _scope(figures, reasons)
            yield Fault(_KINDS[kind], text, since, advice, str(reasons[0].partition), scope)
    oldest = figures.oldest_seconds
    if not figures.reasons and oldest is not None and oldest > max_waiting_age(options):
        message = f"{figures.waiting:,} queued changes wait to be written to Postgres: is a worker running?"
        yield Fault(FaultKind.WRITES_WAIT, message, time.time() - oldest)


def _scope(figures: QueueFigures, reasons: Sequence[Reason]) -> frozenset[str]:
    """Return the queue nodes and the databases of the partitions of some reasons."""
    partitions = {each.partition for each in reasons}
    nodes = [status.node for status in figures.partitions if status.partition in partitions]
    return node_scope(QUEUE, *nodes) | database_scope(*databases_of(partitions).values())
