"""``manage.py writebehind``: the queues, draining them now, parked writes, and queues that stopped."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import Error, router

from cachebackend import writebehind
from cachebackend.conf import write_behind_options
from cachebackend.errors import RingCacheError, WriteBehindStoppedError
from cachebackend.invalidation.outbox import READ_TIMEOUT
from cachebackend.invalidation.outbox_databases import ask_databases
from cachebackend.management.database_work import in_database
from cachebackend.management.parked_actions import ParkedActions
from cachebackend.management.repair_actions import RepairActions
from cachebackend.management.report import AddAction, Report
from cachebackend.monitoring import try_to_read
from cachebackend.monitoring.faults import max_waiting_age
from cachebackend.monitoring.queues import Totals, kind_of, queue_figures
from cachebackend.monitoring.reasons import Kind, summaries
from cachebackend.monitoring.ring import low_sums
from cachebackend.options.writebehind import MAX_PARTITIONS
from cachebackend.protocol import Partition
from cachebackend.telemetry.publisher import total_drains
from cachebackend.writebehind import PartitionStatus
from cachebackend.writebehind.queue import model_of, monitoring_queue

__all__ = ["Command"]

#: Seconds between two rounds of ``drain`` while another worker drains the same partitions.
RETRY_SECONDS = 0.2
#: The thresholds of ``status``, each with its meaning.
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
#: A cell of a partition whose queue node or database does not answer.
_UNKNOWN = "unknown"


class Command(ParkedActions, RepairActions):
    """Status, drain, parked writes and repair of write-behind."""

    reading = frozenset({"status", "parked", "nodes"})
    help = "See the write-behind queues, drain them now, and retry, discard or repair what needs a person."
    examples = """  manage.py writebehind status --json
  manage.py writebehind drain --timeout 120     before a deploy that changes the queue nodes
  manage.py writebehind partitions 16           while the project runs
  manage.py writebehind parked --model shop.product
  manage.py writebehind retry --all
  manage.py writebehind discard 17 18
  manage.py writebehind discard billing:17      in one of several databases
  manage.py writebehind removed --drain shop.page --into shop.article
  manage.py writebehind repair                  shows what differs, and asks
  manage.py writebehind nodes                   exits with 0 when `retiring` may be removed
"""

    def add_actions(self, parser: CommandParser, add: AddAction) -> None:
        """Add the actions."""
        status = add("status", help="how many changes are queued, for how long, and why they are not drained")
        for name, meaning in THRESHOLDS.items():
            status.add_argument(f"--max-{name}", type=float, help=f"exit with 1 if {meaning}")
        drain = add("drain", help="write queued changes to the database until none is left")
        drain.add_argument("--timeout", type=float, default=300.0, help="seconds to give up after (300)")
        partitions = add("partitions", help="change the number of partitions of each model's queue")
        partitions.add_argument("count", type=int, help="the new number")
        partitions.add_argument("--timeout", type=float, default=60.0, help="seconds to drain for (60)")
        self.add_parked_actions(add)
        self.add_repair_actions(add)

    def check_options(self, options: dict[str, Any]) -> None:
        """Refuse what argparse cannot: numbers that cannot work, and options that do not belong together."""
        if options.get("timeout", 1) <= 0:
            message = f"--timeout must be a number of seconds above 0, not {options['timeout']:g}"
            raise CommandError(message)
        if not 1 <= options.get("count", 1) <= MAX_PARTITIONS:
            message = f"the number of partitions must be from 1 to {MAX_PARTITIONS}, not {options['count']}"
            raise CommandError(message)
        self.check_parked_options(options)
        self.check_repair_options(options)

    def _status(self, options: dict[str, Any]) -> Report:
        monitoring_queue()  # raises an error if write-behind is off
        figures = queue_figures()
        if not figures.nodes:
            raise CommandError(figures.faults[0].message)
        statuses, totals = figures.partitions, figures.totals
        faults = [fault.message for fault in figures.faults]
        stopped: list[str] | None = None
        try:
            found = writebehind.find_faults()
            stopped = [str(fault.partition) for fault in found] if found or not found.errors else None
            faults += [
                f"{name} does not answer, so which of its partitions have stopped is not known: {error}"
                for name, error in found.errors.items()
            ]
        except RingCacheError as error:
            faults.append(f"which partitions have stopped is not known: {error}")
        locks = self._locks()
        known_locks = [
            asdict(each) | {"partition": str(each.partition), "since": each.since.isoformat()}
            for each in locks
        ]
        self.print_table(
            ("partition", "node", "queued", "bytes", "sealed", "oldest s", "batch", "rows", "parked"),
            [
                (
                    str(s.partition),
                    s.node,
                    *_queued_cells(s),
                    *(_UNKNOWN if cell is None else cell for cell in (s.landed, s.rows, s.parked)),
                )
                for s in statuses
            ],
        )
        explained = {kind_of(reason) for reason in figures.reasons}
        messages = {fault.message for fault in figures.faults if fault.kind in explained}
        for message in faults:
            if message not in messages:
                self.say(f"not well: {message}")
        blocked = {each.partition for each in figures.reasons if each.kind is Kind.BLOCKED}
        for lock in locks:
            if lock.partition not in blocked:
                self.say(str(lock))
        for line in summaries(figures.reasons):
            self.say(line)
        is_queue_seen = all(each.is_queue_seen for each in statuses)
        is_database_seen = not totals.database_faults and all(each.is_database_seen for each in statuses)
        oldest = f"the oldest for {totals.oldest_seconds:.1f} s"
        known = "" if is_queue_seen else "on the nodes that answer, "
        queued = f"{totals.waiting} changes are queued ({totals.bytes} bytes)"
        parked = (
            f"{totals.parked} writes are parked" if is_database_seen else "how many are parked is unknown"
        )
        self.say(f"{known}{queued}, {oldest}; {parked}")
        if totals.missing:
            self.say(
                f"{totals.missing} drained writes named rows that do not exist or that the worker may not see"
            )
        drains = try_to_read(total_drains)
        counted = None if isinstance(drains, str) else drains.counts
        writes = None if counted is None else {name: getattr(counted, name) for name in _OUTCOMES}
        missing = [] if isinstance(drains, str) else [*drains.missing]
        if writes is None:
            self.say(f"what became of writes is not known: {drains}")
        else:
            outcomes = [f"{count} {_OUTCOMES[name]}" for name, count in writes.items() if count or missing]
            self.say(f"writes since the counters began: {', '.join(outcomes) or 'none'}")
            if missing:
                self.say(low_sums(missing))
        exceeded = _exceeded(totals, options)
        for name, (figure, limit) in exceeded.items():
            meaning = THRESHOLDS[name].partition(" (")[0].replace("this number of ", f"{limit:g} ")
            self.say(f"not well: {meaning} ({figure:.0f})")
        is_stuck = any(each.kind in {Kind.MISSING, Kind.STOPPED, Kind.CLOSED} for each in figures.reasons)
        is_well = not (faults or stopped or is_stuck or exceeded)
        data = {
            "waiting": totals.waiting if is_queue_seen else None,
            "bytes": totals.bytes if is_queue_seen else None,
            "oldest_seconds": round(totals.oldest_seconds, 3) if is_queue_seen else None,
            "rows_landed": totals.rows if is_database_seen else None,
            "rows_missing": totals.missing if is_database_seen else None,
            "parked": totals.parked if is_database_seen else None,
            "writes": writes,
            "writes_missing": missing,
            "stopped": stopped,
            "locks": None if locks.errors else known_locks,
            "faults": faults,
            "reasons": [asdict(each) | {"partition": str(each.partition)} for each in figures.reasons],
            "exceeded": list(exceeded),
            "partitions": [asdict(each) | {"partition": str(each.partition)} for each in statuses],
            "well": is_well,
        }
        return Report(data, is_well)

    @staticmethod
    def _locks() -> writebehind.Answers[writebehind.LockHolder]:
        """Return the sessions that hold the locks of partitions."""
        asked = ask_databases(writebehind.lock_holders, READ_TIMEOUT, writebehind.databases())
        holders = [holder for found in asked.found.values() for holder in found]
        return writebehind.Answers(
            holders, {f"database {using!r}": error for using, error in asked.errors.items()}
        )

    def _drain(self, options: dict[str, Any]) -> Report:
        deadline = time.monotonic() + options["timeout"]
        counts = {"batches": 0, "rows": 0, "missing": 0, "parked": 0, "waiting": 0}
        errors: dict[Partition, Exception] = {}
        while found := writebehind.find_dirty():
            dirty = [partition for partition, _ in found]
            # A partition that stopped stays stopped until a person repairs it
            awaited = [each for each in dirty if not isinstance(errors.get(each), WriteBehindStoppedError)]
            if not awaited or time.monotonic() > deadline:
                break
            before = counts["batches"]
            for partition in awaited:
                self._drain_one(partition, counts, errors)
            self.say_progress(f"{counts['rows']} rows drained; {len(dirty)} partitions held writes")
            if counts["batches"] == before:  # another worker drains them, or the database is down
                time.sleep(RETRY_SECONDS)
        unanswered = {name: str(error) for name, error in found.errors.items()} | self._retry_waiting(counts)
        dirty = [partition for partition, _ in found]
        for partition in dirty:
            if partition in errors:
                self.say(f"{partition}: {errors[partition]}")
        self.say_unanswered(unanswered)
        self.say(
            f"{counts['rows']} rows drained, {counts['parked']} parked, {counts['waiting']} wait for other "
            f"rows, for locks or for a deploy; {len(dirty)} partitions hold writes"
        )
        remaining = {str(partition): str(errors.get(partition, "")) for partition in dirty}
        data = counts | {"left": len(remaining), "partitions": remaining, "unanswered": unanswered}
        return Report(data, not (remaining or unanswered))

    def _retry_waiting(self, counts: dict[str, int]) -> dict[str, str]:
        """Retry the writes that waited for rows that are drained now, until no retry ends one.

        Returns:
            For each database that failed its error.
        """
        unanswered = {}
        for using in writebehind.databases():
            done, waiting = 1, 0
            try:
                while done:
                    done, waiting = 0, 0
                    for retried in in_database(using, partial(_retry_all, using)):
                        counts["rows"] += retried.applied
                        counts["missing"] += retried.missing
                        waiting += len(retried.remaining)
                        done += retried.done
            except Error as error:
                unanswered[f"database {using!r}"] = str(error)
            else:
                counts["waiting"] += waiting
        return unanswered

    def _partitions(self, options: dict[str, Any]) -> Report:
        count = writebehind.change_partitions(options["count"], lambda: self._drain(options))
        is_changed = count == options["count"]
        if is_changed:
            self.say(f"each model's queue has {count} partitions; set WRITE_BEHIND['partitions'] to it too")
        else:
            self.say(f"the queues still hold writes, so the number of partitions is {count} as before")
        return Report({"partitions": count}, is_changed)

    @staticmethod
    def _drain_one(partition: Partition, counts: dict[str, int], errors: dict[Partition, Exception]) -> None:
        """Drain a partition, or record its error: the others may be drained nevertheless."""
        try:
            using = router.db_for_write(model_of(partition))
            drained = in_database(using, partial(writebehind.drain, partition))
        except (RingCacheError, Error) as error:
            errors[partition] = error
            return
        if drained.batches:
            errors.pop(partition, None)
        for name in counts.keys() - {"waiting"}:
            counts[name] += getattr(drained, name)


def _exceeded(totals: Totals, options: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the thresholds that a figure exceeds, each with the figure and the limit."""
    limits = {"age": max_waiting_age(write_behind_options()), "queued": float("inf"), "parked": float("inf")}
    limits |= {name: given for name in THRESHOLDS if (given := options.get(f"max_{name}")) is not None}
    figures = {"age": totals.oldest_seconds, "queued": totals.waiting, "parked": totals.parked}
    return {name: (figure, limits[name]) for name, figure in figures.items() if figure > limits[name]}


def _retry_all(using: str) -> list[writebehind.Retried]:
    return list(writebehind.retry_all_waiting(using))


def _queued_cells(status: PartitionStatus) -> tuple[object, ...]:
    if status.oldest_seconds is None:
        return (_UNKNOWN,) * 4
    return status.fields, status.bytes, status.sealed, f"{status.oldest_seconds:.1f}"
