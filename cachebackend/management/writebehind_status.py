"""``manage.py writebehind status``: the queues, what became of writes, and why they are not drained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError

from cachebackend import writebehind
from cachebackend.conf import write_behind_options
from cachebackend.errors import RingCacheError
from cachebackend.invalidation.outbox import READ_TIMEOUT
from cachebackend.invalidation.outbox_databases import ask_databases
from cachebackend.management.report import Report, ReportCommand
from cachebackend.monitoring import QueueFigures, queue_figures, try_to_read
from cachebackend.monitoring.faults import max_waiting_age
from cachebackend.monitoring.queues import kind_of
from cachebackend.monitoring.reasons import Kind, summaries
from cachebackend.monitoring.ring import low_sums
from cachebackend.telemetry.publisher import total_drains
from cachebackend.writebehind import PartitionStatus
from cachebackend.writebehind.queue import monitoring_queue

__all__ = ["THRESHOLDS", "status_report"]

#: The thresholds, each with its meaning.
THRESHOLDS = {
    "age": "a change is queued for more than this number of seconds (10 flush intervals, at least 10 s)",
    "queued": "more than this number of changes is queued (no limit)",
    "parked": "more than this number of writes is parked (0 of those that a person must retry)",
}
#: What became of writes, by the name of the counter.
_OUTCOMES = {
    "accepted": "accepted",
    "written_through": "written through",
    "dropped": "dropped",
    "unknown": "with an unknown outcome",
    "refused": "refused",
}
_COLUMNS = ("partition", "node", "queued", "bytes", "sealed", "oldest s", "batch", "rows", "parked")
#: A cell of a partition whose queue node or database does not answer.
_UNKNOWN = "unknown"
#: The kinds of reasons that a person must end; others may end by themselves.
_STUCK = frozenset({Kind.MISSING, Kind.STOPPED, Kind.CLOSED})


def status_report(command: ReportCommand, limits: Mapping[str, float | None]) -> Report:
    """Print the queue of each partition, and what is wrong.

    Args:
        command: Prints the text.
        limits: The limit that was given for each of the thresholds; None: none was.
    """
    monitoring_queue()  # raises an error if write-behind is off
    figures = queue_figures()
    if not figures.nodes:
        raise CommandError(figures.faults[0].message)
    totals = figures.totals
    stopped, unknown = _stopped()
    faults = [*(fault.message for fault in figures.faults if not fault.is_note), *unknown]
    notes = [fault.message for fault in figures.faults if fault.is_note]
    locks = _locks()
    command.print_table(_COLUMNS, map(_cells, figures.partitions))
    _print_faults(command, figures, faults, notes, locks)
    is_queue_seen = all(each.is_queue_seen for each in figures.partitions)
    is_database_seen = figures.is_database_up
    _print_totals(command, figures, is_queue_seen=is_queue_seen)
    writes, missing = _print_writes(command)
    exceeded = _exceeded(figures, limits)
    for name, (figure, limit) in exceeded.items():
        meaning = THRESHOLDS[name].partition(" (")[0].replace("this number of ", f"{limit:g} ")
        command.say(f"not well: {meaning} ({figure:.0f})")
    is_stuck = any(each.kind in _STUCK for each in figures.reasons)
    is_well = not (faults or stopped or is_stuck or exceeded)
    data = {
        "waiting": totals.waiting if is_queue_seen else None,
        "bytes": totals.bytes if is_queue_seen else None,
        "oldest_seconds": round(totals.oldest_seconds, 3) if is_queue_seen else None,
        "rows_landed": totals.rows if is_database_seen else None,
        "rows_missing": totals.missing if is_database_seen else None,
        "parked": figures.parked,
        "writes": writes,
        "writes_missing": missing,
        "stopped": stopped,
        "locks": None if locks.errors else [_lock_data(each) for each in locks],
        "faults": faults,
        "notes": notes,
        "reasons": [asdict(each) | {"partition": str(each.partition)} for each in figures.reasons],
        "exceeded": list(exceeded),
        "partitions": [asdict(each) | {"partition": str(each.partition)} for each in figures.partitions],
        "well": is_well,
    }
    return Report(data, is_well)


def _stopped() -> tuple[list[str] | None, list[str]]:
    """Return the partitions that have stopped, None if that is not known; and why it may not be known."""
    try:
        found = writebehind.find_faults()
    except RingCacheError as error:
        return None, [f"which partitions have stopped is not known: {error}"]
    unknown = [
        f"{name} does not answer, so which of its partitions have stopped is not known: {error}"
        for name, error in found.errors.items()
    ]
    return ([str(fault.partition) for fault in found] if found or not unknown else None), unknown


def _locks() -> writebehind.Answers[writebehind.LockHolder]:
    """Return the sessions that hold the locks of partitions."""
    asked = ask_databases(writebehind.lock_holders, READ_TIMEOUT, writebehind.databases())
    holders = [holder for found in asked.found.values() for holder in found]
    return writebehind.Answers(
        holders, {f"database {using!r}": error for using, error in asked.errors.items()}
    )


def _lock_data(lock: writebehind.LockHolder) -> dict[str, Any]:
    return asdict(lock) | {"partition": str(lock.partition), "since": lock.since.isoformat()}


def _cells(status: PartitionStatus) -> tuple[object, ...]:
    """Return the cells of a partition; what is not known is not an empty cell."""
    queued: tuple[object, ...] = (_UNKNOWN,) * 4
    if status.oldest_seconds is not None:
        queued = status.fields, status.bytes, status.sealed, f"{status.oldest_seconds:.1f}"
    drained = (status.landed, status.rows, status.parked)
    return (
        str(status.partition),
        status.node,
        *queued,
        *(_UNKNOWN if cell is None else cell for cell in drained),
    )


def _print_faults(
    command: ReportCommand,
    figures: QueueFigures,
    faults: Sequence[str],
    notes: Sequence[str],
    locks: Sequence[writebehind.LockHolder],
) -> None:
    """Print what is wrong: first what no reason says, then sessions that hold locks, then the reasons."""
    explained = {kind_of(reason) for reason in figures.reasons}
    messages = {fault.message for fault in figures.faults if fault.kind in explained}
    for message in faults:
        if message not in messages:
            command.say(f"not well: {message}")
    for note in notes:
        command.say(f"note: {note}")
    blocked = {each.partition for each in figures.reasons if each.kind is Kind.BLOCKED}
    for lock in locks:
        if lock.partition not in blocked:
            command.say(str(lock))
    for line in summaries(figures.reasons):
        command.say(line)


def _print_totals(command: ReportCommand, figures: QueueFigures, *, is_queue_seen: bool) -> None:
    totals, count = figures.totals, figures.parked
    known = "" if is_queue_seen else "on the nodes that answer, "
    queued = f"{totals.waiting} changes are queued ({totals.bytes} bytes)"
    oldest = f"the oldest for {totals.oldest_seconds:.1f} s"
    parked = "how many are parked is unknown" if count is None else f"{count} writes are parked"
    command.say(f"{known}{queued}, {oldest}; {parked}")
    if totals.missing:
        command.say(
            f"{totals.missing} drained writes named rows that do not exist or that the worker may not see"
        )


def _print_writes(command: ReportCommand) -> tuple[dict[str, int] | None, list[str]]:
    """Print what became of writes.

    Returns:
        The counts, None if they are not known; and the names of the nodes that could not be read.
    """
    drains = try_to_read(total_drains)
    if isinstance(drains, str):
        command.say(f"what became of writes is not known: {drains}")
        return None, []
    writes = {name: getattr(drains.counts, name) for name in _OUTCOMES}
    missing = list(drains.missing)
    outcomes = [f"{count} {_OUTCOMES[name]}" for name, count in writes.items() if count or missing]
    command.say(f"writes since the counters began: {', '.join(outcomes) or 'none'}")
    if missing:
        command.say(low_sums(missing))
    return writes, missing


def _exceeded(queues: QueueFigures, given: Mapping[str, float | None]) -> dict[str, tuple[float, float]]:
    """Return the thresholds that a figure exceeds, each with the figure and the limit."""
    limits = {"age": max_waiting_age(write_behind_options()), "queued": float("inf"), "parked": float("inf")}
    limits |= {name: limit for name, limit in given.items() if limit is not None}
    totals, parked = queues.totals, queues.parked_writes
    figures = {"age": totals.oldest_seconds, "queued": totals.waiting, "parked": parked.count}
    return {name: (figure, limits[name]) for name, figure in figures.items() if figure > limits[name]}
