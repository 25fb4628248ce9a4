"""The write-behind queues: what waits, what was drained, what is parked."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from django.db.models import Count, Exists, Min, OuterRef

from cachebackend import writebehind
from cachebackend.conf import write_behind_options
from cachebackend.counters import DrainCounts
from cachebackend.errors import ConfigurationError, RingCacheError
from cachebackend.histogram import Histogram
from cachebackend.invalidation.outbox import READ_TIMEOUT
from cachebackend.invalidation.outbox_databases import ask_databases
from cachebackend.models import ParkedWrite
from cachebackend.monitoring.faults import RETRIED_SECONDS, Fault, database_scope, max_waiting_age, node_scope
from cachebackend.monitoring.formatting import and_more, counted
from cachebackend.monitoring.lost_writes import lost_faults
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


#: The most characters of an error in a fault.
MAX_ERROR = 200


class Parked(NamedTuple):
    """Parked writes of some databases.

    Attributes:
        kept: Those that a person retries or discards.
        kept_since: When the first of them was parked, in seconds since 1970; None if none is.
        retried: Those that the workers try again, and the later ones of the same rows.
        retried_since: When the first of those was parked.
        error: The model and the error of the last of those that a person retries or discards.
    """

    kept: int = 0
    kept_since: float | None = None
    retried: int = 0
    retried_since: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over partitions; what did not answer is not in them.

    Attributes:
        waiting: Changes that wait in the queues.
        bytes: The bytes of their names and values.
        oldest_seconds: For how long the oldest of them has waited; 0.0 if none waits.
        rows: Rows that drained batches changed, since the queues were new.
        missing: Rows that those batches named and that did not exist.
        parked: Writes that Postgres refused.
        parked_since: When the first of those that a person retries was parked, in seconds since 1970; None if
            none is.
        retried: Those of them that the workers try again, because they wait for a lock or for another row.
        retried_since: When the first of those was parked.
        parked_error: The model and the error of the last of those that a person retries or discards.
        database_faults: For each database that does not answer, that its parked writes are not counted.
        parked_in: The aliases of the databases that have parked writes.
    """

    waiting: int = 0
    oldest_seconds: float = 0.0
    rows: int = 0
    missing: int = 0
    parked: int = 0
    parked_since: float | None = None
    bytes: int = 0
    database_faults: Mapping[str, str] = field(default_factory=dict)
    retried: int = 0
    retried_since: float | None = None
    parked_in: Sequence[str] = ()
    parked_error: str = ""

    @classmethod
    def of(cls, partitions: Sequence[PartitionStatus]) -> Totals:
        """Return the sums over partitions, and what is parked.

        Parked writes are counted in their table: they outlive the queue and the model that they
        came from, and a partition that is on two nodes has them once.
        """
        parked, faults, parked_in = _parked()
        return cls(
            sum(each.fields or 0 for each in partitions),
            max((each.oldest_seconds or 0.0 for each in partitions), default=0.0),
            sum(each.rows or 0 for each in partitions),
            sum(each.missing or 0 for each in partitions),
            parked.kept + parked.retried,
            parked.kept_since,
            sum(each.bytes or 0 for each in partitions),
            faults,
            parked.retried,
            parked.retried_since,
            parked_in,
            parked.error,
        )


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """Write-behind.

    Attributes:
        is_on: Whether the settings name queue nodes.
        partitions: The partitions that were ever written to.
        nodes: The queue nodes.
        totals: Sums over the partitions that answered.
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
        return self.totals.parked if self.is_database_up else None

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
    options = write_behind_options()
    if not options.is_on:
        return QueueFigures()
    try:
        publish_write_counts()
        return _figures(options, processes)
    except (RingCacheError, ConfigurationError) as error:
        fault = Fault(FaultKind.QUEUE_NODE_DOWN, f"The queue cannot be read: {error}")
        return QueueFigures(is_on=True, faults=[fault])


def _parked() -> tuple[Parked, Mapping[str, str], Sequence[str]]:
    """Return the parked writes, what is wrong with each database, and the databases that have such writes."""
    known = writebehind.all_databases()
    asked = ask_databases(_parked_in, READ_TIMEOUT, known)
    late = {f"database {using!r}": error for using, error in asked.errors.items()}
    faults = {
        name: f"The {name} does not answer, so its parked writes are not known: {error}"
        for name, error in (known.errors | late).items()
    }
    found = asked.found.values()
    return (
        Parked(
            sum(each.kept for each in found),
            min((each.kept_since for each in found if each.kept_since is not None), default=None),
            sum(each.retried for each in found),
            min((each.retried_since for each in found if each.retried_since is not None), default=None),
            next((each.error for each in found if each.error), ""),
        ),
        faults,
        [using for using, each in asked.found.items() if each.kept or each.retried],
    )


def _parked_in(using: str) -> Parked:
    writes = ParkedWrite.objects.using(using).order_by()
    of_row = writes.filter(label=OuterRef("label"), key=OuterRef("key"), retry_at__isnull=False)
    counted = writes.values(is_retried=Exists(of_row)).annotate(count=Count("pk"), first=Min("created"))
    groups = {each["is_retried"]: (each["count"], each["first"].timestamp()) for each in counted}
    kept, retried = groups.get(False, (0, None)), groups.get(True, (0, None))
    last = (
        writes.filter(~Exists(of_row)).order_by("-pk").values_list("label", "error").first()
        if kept[0]
        else None
    )
    return Parked(*kept, *retried, f"{last[0]}: {_shortened(last[1])}" if last else "")


def _shortened(error: str) -> str:
    """Return the first line of an error, without the value that it quotes."""
    return error.partition("\n")[0].partition(': "')[0][:MAX_ERROR]


def _figures(options: WriteBehindOptions, processes: ProcessFigures | None) -> QueueFigures:
    nodes = queue_node_figures()
    down = {name for node in nodes if not node.is_up for name in node.names} | unserved_parts()
    partitions = writebehind.partition_statuses()
    totals = Totals.of(partitions)
    has_all = not totals.database_faults and all(each.is_database_seen for each in partitions)
    figures = QueueFigures(
        is_on=True,
        partitions=partitions,
        nodes=nodes,
        totals=totals,
        is_database_up=has_all,
        minutes=write_steps(HOUR),
        reasons=find_reasons(partitions, processes),
    )
    faults = [*queue_node_faults(nodes, partitions)]
    unread = [each for each in partitions if each.error and each.node not in down]
    errors = {str(each.error) for each in unread if each.is_database_seen}
    faults += [Fault(FaultKind.QUEUE_NODE_DOWN, error) for error in sorted(errors)]
    faults += _database_faults([each for each in unread if not each.is_database_seen], totals)
    faults += [*_waiting_faults(figures, options), *_parked_faults(figures)]
    faults += lost_faults(figures.minutes, time.time())
    return replace(figures, faults=faults)


def _database_faults(unread: Sequence[PartitionStatus], totals: Totals) -> Iterator[Fault]:
    """Yield one fault for each database that did not answer at least one of the questions."""
    databases = databases_of(each.partition for each in unread)
    errors = {f"database {databases[each.partition]!r}": str(each.error) for each in unread}
    for name, error in sorted((dict(totals.database_faults) | errors).items()):
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
        session = reason.text if reason.kind is Kind.BLOCKED else ""
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


def _parked_faults(figures: QueueFigures) -> Iterator[Fault]:
    """Yield what is parked in the databases that answer, whether another one does or not."""
    totals = figures.totals
    scope = database_scope(*totals.parked_in)
    if count := totals.parked - totals.retried:
        are, them = ("are", "them") if count > 1 else ("is", "it")
        message = f"{counted(count, 'write')} {are} parked because Postgres refused {them}"
        message += f": {totals.parked_error}." if totals.parked_error else "."
        yield Fault(FaultKind.WRITES_PARKED, message, totals.parked_since, scope=scope)
    since = totals.retried_since
    if since is not None and time.time() - since > RETRIED_SECONDS:
        waits = "wait for locks or for other rows, and are"
        if totals.retried == 1:
            waits = "waits for a lock or for another row, and is"
        message = f"{counted(totals.retried, 'write')} {waits} tried again."
        yield Fault(FaultKind.WRITES_RETRIED, message, since, scope=scope)
