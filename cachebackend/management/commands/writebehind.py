"""``manage.py writebehind``: the queues, draining them now, parked writes, and queues that stopped."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import Error, router

from cachebackend import writebehind
from cachebackend.errors import RingCacheError, WriteBehindStoppedError
from cachebackend.management.database_work import in_database
from cachebackend.management.parked_actions import ParkedActions
from cachebackend.management.repair_actions import RepairActions
from cachebackend.management.report import AddAction, Report
from cachebackend.management.writebehind_status import THRESHOLDS, status_report
from cachebackend.options.writebehind import MAX_PARTITIONS
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind.queue import model_of

__all__ = ["Command"]

#: Seconds between two rounds of ``drain`` while another worker drains the same partitions.
RETRY_SECONDS = 0.2


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
        return status_report(self, {name: options[f"max_{name}"] for name in THRESHOLDS})

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


def _retry_all(using: str) -> list[writebehind.Retried]:
    return list(writebehind.retry_all_waiting(using))
