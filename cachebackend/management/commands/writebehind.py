"""``manage.py writebehind``: what waits, landing it now, what was parked, and queues that stopped."""

from __future__ import annotations

import json
import sys
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error, close_old_connections

from cachebackend import writebehind
from cachebackend.conf import write_behind_options
from cachebackend.errors import RingCacheError, WriteBehindError, WriteBehindStoppedError
from cachebackend.management.tables import print_table
from cachebackend.models import ParkedWrite
from cachebackend.protocol import Partition
from cachebackend.writebehind.parked import row_of
from cachebackend.writebehind.queue import model_named
from cachebackend.writebehind.reads import describe_row
from cachebackend.writebehind.repair import Mismatch

__all__ = ["Command"]

#: A write that has waited for so many flush intervals says that no worker lands it.
WORRYING_INTERVALS = 30
#: Seconds between two looks of ``drain`` at what other workers are landing.
LOOK_SECONDS = 0.2
EXAMPLES = """examples:
  manage.py writebehind status --json
  manage.py writebehind drain --timeout 120     before a deploy that changes the queue nodes
  manage.py writebehind parked --model shop.product
  manage.py writebehind retry --all
  manage.py writebehind discard 17 18
  manage.py writebehind repair                  shows what differs, and asks
Exits with 1 when what it reports is not well.
"""


class Command(BaseCommand):
    """Status, drain, parked writes and repair of write-behind."""

    help = "See what write-behind holds, land it now, and deal with what was refused."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Keep the lines of the examples."""
        return super().create_parser(
            prog_name, subcommand, epilog=EXAMPLES, formatter_class=RawDescriptionHelpFormatter, **kwargs
        )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take what to do."""
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        common = CommandParser(add_help=False)
        common.add_argument("--json", action="store_true", help="print one JSON object as the last line")
        chosen = CommandParser(add_help=False)
        chosen.add_argument(
            "ids", nargs="*", type=int, help="numbers of parked writes, as `parked` shows them"
        )
        chosen.add_argument("--model", help="those of a model, as app_label.model_name")
        chosen.add_argument("--all", action="store_true", help="all of them")
        actions.add_parser("status", parents=[common], help="what waits, and since when")
        drain = actions.add_parser("drain", parents=[common], help="land what waits, until nothing does")
        drain.add_argument("--timeout", type=float, default=300.0, help="seconds to give up after (300)")
        parked = actions.add_parser("parked", parents=[common], help="writes that Postgres refused")
        parked.add_argument("--model", help="those of a model, as app_label.model_name")
        parked.add_argument("--limit", type=int, default=50, help="how many to show (50)")
        actions.add_parser("retry", parents=[common, chosen], help="try parked writes again")
        discard = actions.add_parser("discard", parents=[common, chosen], help="give parked writes up")
        discard.add_argument("--yes", action="store_true", help="do not ask")
        repair = actions.add_parser("repair", parents=[common], help="let queues go on that stopped")
        choice = repair.add_mutually_exclusive_group()
        choice.add_argument("--keep", action="store_true", help="land what stands in them; do not ask")
        choice.add_argument(
            "--drop", action="store_true", help="drop what stands in queues that are older; do not ask"
        )

    def handle(self, *_: Any, **options: Any) -> None:
        """Do it, print it, and exit accordingly."""
        self._is_json = options["json"]
        try:
            found, is_well = getattr(self, f"_{options['action']}")(options)
        except (RingCacheError, Error) as error:
            raise CommandError(str(error)) from error
        if self._is_json:
            self.stdout.write(json.dumps(found, default=str))
        if not is_well:
            sys.exit(1)

    def _status(self, _: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        statuses = writebehind.partition_statuses()
        faults = writebehind.node_faults() + sorted({each.error for each in statuses if each.error})
        stopped = []
        try:
            stopped = [str(fault.partition) for fault in writebehind.find_faults()]
        except (RingCacheError, Error) as error:
            faults.append(f"which partitions have stopped is not known: {error}")
        oldest = max((each.oldest_seconds for each in statuses), default=0.0)
        totals = {
            "waiting": sum(each.fields for each in statuses),
            "oldest_seconds": round(oldest, 3),
            "rows_landed": sum(each.rows for each in statuses),
            "rows_missing": sum(each.missing for each in statuses),
            "parked": sum({each.partition: each.parked for each in statuses}.values()),
            "stopped": stopped,
            "faults": faults,
        }
        self._table(
            ("partition", "node", "waiting", "sealed", "oldest s", "landed", "rows", "parked"),
            [
                (
                    str(s.partition),
                    s.node,
                    s.fields,
                    s.sealed,
                    f"{s.oldest_seconds:.1f}",
                    s.landed,
                    s.rows,
                    s.parked,
                )
                for s in statuses
            ],
        )
        for fault in faults:
            self._say(f"not well: {fault}")
        for partition in stopped:
            self._say(f"stopped: {partition}; see `manage.py writebehind repair`")
        self._say(
            f"{totals['waiting']} changes wait, the oldest for {oldest:.1f} s; {totals['parked']} are parked"
        )
        told = [asdict(each) | {"partition": str(each.partition)} for each in statuses]
        patience = WORRYING_INTERVALS * write_behind_options().flush_interval
        is_well = not (faults or stopped or totals["parked"]) and oldest < patience
        return totals | {"partitions": told, "well": is_well}, is_well

    def _drain(self, options: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        deadline = time.monotonic() + options["timeout"]
        told = {"batches": 0, "rows": 0, "missing": 0, "parked": 0}
        errors: dict[Partition, Exception] = {}
        while dirty := [partition for partition, _ in writebehind.dirty_partitions()]:
            # Until a person has repaired it, one that stopped is not worth another try
            awaited = [each for each in dirty if not isinstance(errors.get(each), WriteBehindStoppedError)]
            if not awaited or time.monotonic() > deadline:
                break
            before = told["batches"]
            for partition in awaited:
                self._drain_one(partition, told, errors)
            if not self._is_json:
                self.stderr.write(f"{told['rows']} rows landed; {len(dirty)} partitions held writes")
            if told["batches"] == before:  # another worker is at it, or the database is away
                time.sleep(LOOK_SECONDS)
        for partition in dirty:
            if partition in errors:
                self._say(f"{partition}: {errors[partition]}")
        self._say(f"{told['rows']} rows landed, {told['parked']} parked; {len(dirty)} partitions hold writes")
        left = {str(partition): str(errors.get(partition, "")) for partition in dirty}
        return told | {"left": len(left), "partitions": left}, not left

    @staticmethod
    def _drain_one(partition: Partition, told: dict[str, int], errors: dict[Partition, Exception]) -> None:
        """Land what stands in a partition, or note why not: the others may land nevertheless."""
        try:
            drained = writebehind.drain(partition)
        except (RingCacheError, Error) as error:
            errors[partition] = error
            close_old_connections()  # one that broke would be used for ever
            return
        if drained.batches:
            errors.pop(partition, None)
        for name in told:
            told[name] += getattr(drained, name)

    def _parked(self, options: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        found = [each for _, each in self._chosen(options | {"all": True, "ids": []})]
        shown = found[: options["limit"]]
        self._table(
            ("id", "model", "key", "batch", "parked at", "changes", "error"),
            [
                (p.pk, p.label, p.key, p.batch, f"{p.created:%m-%d %H:%M:%S}", self._changes(p), p.error)
                for p in shown
            ],
        )
        self._say(f"{len(found)} writes are parked")
        told = [
            {"id": p.pk, "model": p.label, "key": p.key, "batch": p.batch, "created": p.created.isoformat()}
            | {"changes": self._changes(p), "error": p.error}
            for p in shown
        ]
        return {"parked": len(found), "writes": told}, not found

    def _retry(self, options: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        landed, left = 0, 0
        for using, writes in _by_database(self._chosen(options)).items():
            retried = writebehind.retry(writes, using)
            landed += retried.applied
            left += len(retried.remaining)
            for write in retried.remaining:
                self._say(f"{write}: {write.error}")
        self._say(f"{landed} writes landed, {left} are still parked")
        return {"landed": landed, "left": left}, not left

    def _discard(self, options: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        chosen = self._chosen(options)
        question = f"Give {len(chosen)} parked writes up? They will never land."
        if not chosen or not (options["yes"] or self._agrees(question)):
            self._say("nothing was discarded")
            return {"discarded": 0}, True
        count = sum(writebehind.discard(writes, using) for using, writes in _by_database(chosen).items())
        self._say(f"{count} writes were discarded")
        return {"discarded": count}, True

    def _repair(self, options: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        told = []
        for fault in writebehind.find_faults():
            opened = fault.state.open_batch if fault.state else None
            self._say(
                f"{fault.partition}: {fault.mismatch}. The database has batch {fault.drained_batch}; "
                "the queue "
                + (
                    f"has {opened} open, and holds batches {list(fault.queued_batches)}"
                    if opened
                    else "is gone"
                )
            )
            keep, problem = self._keep(fault, options), None
            if keep is not None:
                try:
                    writebehind.repair(fault, keep=keep)
                except WriteBehindError as error:
                    keep, problem = None, str(error)
                    self._say(problem)
            told.append(
                {
                    "partition": str(fault.partition),
                    "trouble": str(fault.mismatch),
                    "landed": fault.drained_batch,
                }
                | {"open": opened, "standing": list(fault.queued_batches), "repaired": keep is not None}
                | {"error": problem}
            )
        if not told:
            self._say("every queue is where its checkpoint says")
        return {"faults": told}, all(each["repaired"] for each in told)

    def _keep(self, fault: writebehind.Fault, options: dict[str, Any]) -> bool | None:
        """Return whether to land what stands, or to drop it; None: leave the queue stopped."""
        if options["keep"] or options["drop"]:
            return bool(options["keep"])
        if fault.mismatch is Mismatch.DATABASE_IS_OLDER:
            agrees = self._agrees(
                "What the database lacks, the queue has dropped as landed: it is lost, unless you restore "
                "the database to a later state. Land what stands in the queue on what there is?"
            )
            return True if agrees else None
        if not fault.queued_batches:
            agrees = self._agrees("Nothing stands in it: what it held and had not landed is lost. Go on?")
            return True if agrees else None
        self._say("Land what stands (what had landed of it counts twice), or drop it (what had not is lost)?")
        answer = self._ask("keep, drop, or leave it stopped [leave]: ").strip().lower()
        return {"keep": True, "drop": False}.get(answer)

    def _chosen(self, options: dict[str, Any]) -> list[tuple[str, ParkedWrite]]:
        """Return the parked writes that were asked for, with their databases."""
        if not (options["ids"] or options["model"] or options["all"]):
            message = "say which: numbers as `writebehind parked` shows them, --model, or --all"
            raise CommandError(message)
        label = options["model"] and _label(options["model"])
        found = []
        for using in writebehind.databases():
            writes = ParkedWrite.objects.using(using).all()
            if label:
                writes = writes.filter(label=label)
            if options["ids"]:
                writes = writes.filter(pk__in=options["ids"])
            found += [(using, write) for write in writes]
        if lacking := set(options["ids"]) - {write.pk for _, write in found}:
            message = f"no write is parked as {', '.join(map(str, sorted(lacking)))}"
            raise CommandError(message)
        return found

    @staticmethod
    def _changes(parked: ParkedWrite) -> str:
        model = model_named(parked.label)
        return describe_row(model, row_of(parked, model)) if model else "of a model that is gone"

    def _agrees(self, question: str) -> bool:
        return self._ask(f"{question} [y/N] ").strip().lower() in {"y", "yes"}

    def _ask(self, question: str) -> str:
        if self._is_json or not sys.stdin.isatty():  # nothing is done that nobody agreed to
            return ""
        return input(question)

    def _say(self, text: str) -> None:
        if not self._is_json:
            self.stdout.write(text)

    def _table(self, names: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
        if not self._is_json:
            print_table(self.stdout, names, rows)


def _label(name: str) -> str:
    try:
        return str(apps.get_model(name)._meta.label_lower)
    except (LookupError, ValueError) as error:
        message = f"no model {name!r}: {error}"
        raise CommandError(message) from error


def _by_database(chosen: Iterable[tuple[str, ParkedWrite]]) -> dict[str, list[ParkedWrite]]:
    found: dict[str, list[ParkedWrite]] = {}
    for using, write in chosen:
        found.setdefault(using, []).append(write)
    return found
