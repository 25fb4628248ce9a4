"""``manage.py writebehind``: the queues, draining them now, parked writes, and queues that stopped."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from django.apps import apps
from django.core.management.base import CommandError, CommandParser
from django.db import Error, close_old_connections
from django.db.models import Model

from cachebackend import writebehind
from cachebackend.conf import write_behind_options
from cachebackend.errors import RingCacheError, WriteBehindError, WriteBehindStoppedError
from cachebackend.management.report import AddAction, Report, ReportCommand
from cachebackend.models import ParkedWrite
from cachebackend.monitoring import try_to_read
from cachebackend.monitoring.faults import max_waiting_age
from cachebackend.monitoring.parked import changes_text
from cachebackend.monitoring.queues import Totals
from cachebackend.monitoring.reasons import Kind, find_reasons
from cachebackend.options.writebehind import MAX_PARTITIONS
from cachebackend.protocol import Partition
from cachebackend.telemetry.publisher import total_drains
from cachebackend.writebehind import PartitionStatus
from cachebackend.writebehind.queue import behind_models
from cachebackend.writebehind.repair import Mismatch

__all__ = ["Command"]

#: Seconds between two rounds of ``drain`` while another worker drains the same partitions.
RETRY_SECONDS = 0.2


#: The thresholds of ``status``, each with its meaning.
THRESHOLDS = {
    "age": "a change is queued for more than this number of seconds (30 flush intervals)",
    "queued": "more than this number of changes is queued (no limit)",
    "parked": "more than this number of writes is parked (0)",
}
#: The cells of a partition whose queue node does not answer.
UNKNOWN = ("unknown",) * 4


class Command(ReportCommand):
    """Status, drain, parked writes and repair of write-behind."""

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
        parked = add("parked", help="list the writes that Postgres refused")
        parked.add_argument("--model", help=_MODEL_HELP)
        parked.add_argument("--limit", type=int, default=50, help="the most writes to list (50)")
        _add_choice(add("retry", help="try parked writes again"))
        discard = add("discard", help="delete parked writes for good")
        _add_choice(discard)
        discard.add_argument("--yes", action="store_true", help="do not ask")
        removed = add("removed", help="list writes of models that are gone, and drop or redirect them")
        removed.add_argument("--drop", metavar="LABEL", help="delete the writes of this model")
        removed.add_argument("--drain", metavar="LABEL", help="write the changes of this model to another")
        removed.add_argument("--into", metavar="MODEL", help="the model to which --drain writes")
        removed.add_argument("--yes", action="store_true", help="do not ask")
        repair = add("repair", help="restart queues that stopped")
        choice = repair.add_mutually_exclusive_group()
        choice.add_argument("--keep", action="store_true", help="drain what the queues hold; do not ask")
        choice.add_argument(
            "--drop", action="store_true", help="drop what queues with an older state hold; do not ask"
        )

        add("nodes", help="while queue nodes are replaced: what the retiring nodes still hold")

    def check_options(self, options: dict[str, Any]) -> None:
        """Refuse numbers that cannot work, and more than one choice of parked writes."""
        if not options.get("timeout", 1) > 0:  # NaN included
            message = f"--timeout must be a number of seconds above 0, not {options['timeout']:g}"
            raise CommandError(message)
        if options.get("limit", 1) < 1:
            message = f"--limit must be at least 1, not {options['limit']}"
            raise CommandError(message)
        if options["action"] == "removed" and bool(options["drain"]) != bool(options["into"]):
            message = "--drain LABEL and --into MODEL belong together"
            raise CommandError(message)
        if not 1 <= options.get("count", 1) <= MAX_PARTITIONS:
            message = f"the number of partitions must be from 1 to {MAX_PARTITIONS}, not {options['count']}"
            raise CommandError(message)
        if options["action"] in {"retry", "discard"}:
            choices = [bool(options[name]) for name in ("ids", "model", "all")]
            if sum(choices) != 1:
                wrong = "say which" if not any(choices) else "say which in one way only"
                message = f"{wrong}: numbers as `writebehind parked` lists them, --model, or --all"
                raise CommandError(message)

    def _status(self, options: dict[str, Any]) -> Report:
        statuses = writebehind.partition_statuses()
        totals = Totals.of(statuses)
        faults = writebehind.node_faults() + sorted({each.error for each in statuses if each.error})
        stopped, locks = [], []
        try:
            locks = [each for using in writebehind.databases() for each in writebehind.lock_holders(using)]
            stopped = [str(fault.partition) for fault in writebehind.find_faults()]
        except (RingCacheError, Error) as error:
            faults.append(f"which partitions have stopped is not known: {error}")
        self.print_table(
            ("partition", "node", "queued", "bytes", "sealed", "oldest s", "batch", "rows", "parked"),
            [
                (
                    str(s.partition),
                    s.node,
                    *(_queued_cells(s) if s.is_queue_seen else UNKNOWN),
                    s.landed,
                    s.rows,
                    s.parked,
                )
                for s in statuses
            ],
        )
        for fault in faults:
            self.say(f"not well: {fault}")
        for lock in locks:
            self.say(str(lock))
        reasons = find_reasons(statuses)
        for reason in reasons:
            self.say(str(reason))
        oldest = f"the oldest for {totals.oldest_seconds:.1f} s"
        known = "" if all(each.is_queue_seen for each in statuses) else "on the nodes that answer, "
        queued = f"{totals.waiting} changes are queued ({totals.bytes} bytes)"
        self.say(f"{known}{queued}, {oldest}; {totals.parked} writes are parked")
        drains = try_to_read(total_drains)
        dropped = None if isinstance(drains, str) else drains.dropped
        if dropped:
            self.say(f"{dropped} writes of counters were dropped, because a queue node did not answer")
        exceeded = _exceeded(totals, options)
        for name in exceeded:
            self.say(f"not well: {THRESHOLDS[name].partition(' (')[0]}")
        is_stuck = any(each.kind in {Kind.MISSING, Kind.STOPPED} for each in reasons)
        is_well = not (faults or stopped or is_stuck or exceeded)
        data = {
            "waiting": totals.waiting,
            "bytes": totals.bytes,
            "oldest_seconds": round(totals.oldest_seconds, 3),
            "rows_landed": totals.rows,
            "rows_missing": totals.missing,
            "parked": totals.parked,
            "dropped": dropped,
            "stopped": stopped,
            "locks": [
                asdict(each) | {"partition": str(each.partition), "since": each.since.isoformat()}
                for each in locks
            ],
            "faults": faults,
            "reasons": [asdict(each) | {"partition": str(each.partition)} for each in reasons],
            "exceeded": exceeded,
            "partitions": [asdict(each) | {"partition": str(each.partition)} for each in statuses],
            "well": is_well,
        }
        return Report(data, is_well)

    def _drain(self, options: dict[str, Any]) -> Report:
        deadline = time.monotonic() + options["timeout"]
        counts = {"batches": 0, "rows": 0, "missing": 0, "parked": 0, "waiting": 0}
        errors: dict[Partition, Exception] = {}
        while dirty := [partition for partition, _ in writebehind.dirty_partitions()]:
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
        self._retry_waiting(counts)
        for partition in dirty:
            if partition in errors:
                self.say(f"{partition}: {errors[partition]}")
        self.say(
            f"{counts['rows']} rows drained, {counts['parked']} parked, {counts['waiting']} wait for other "
            f"rows or locks; {len(dirty)} partitions hold writes"
        )
        remaining = {str(partition): str(errors.get(partition, "")) for partition in dirty}
        return Report(counts | {"left": len(remaining), "partitions": remaining}, not remaining)

    def _retry_waiting(self, counts: dict[str, int]) -> None:
        """Retry the writes that waited for rows that are drained now, until no retry applies one."""
        for using in writebehind.databases():
            try:
                while (retried := writebehind.retry_waiting(using, due_only=False)).applied:
                    counts["rows"] += retried.applied
            except Error as error:
                self.say(f"the writes that wait in {using!r} were not retried: {error}")
                close_old_connections()
            else:
                counts["waiting"] += len(retried.remaining)

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
            drained = writebehind.drain(partition)
        except (RingCacheError, Error) as error:
            errors[partition] = error
            close_old_connections()  # else a broken connection would be used again
            return
        if drained.batches:
            errors.pop(partition, None)
        for name in counts.keys() - {"waiting"}:
            counts[name] += getattr(drained, name)

    def _parked(self, options: dict[str, Any]) -> Report:
        parked = [write for _, write in self._chosen(options | {"ids": []})]
        is_one = len(writebehind.databases()) == 1
        shown = parked[: options["limit"]]
        self.print_table(
            ("id", "model", "key", "batch", "parked at", "retried", "changes", "error"),
            [
                (
                    p.pk if is_one else f"{p._state.db}:{p.pk}",
                    p.label,
                    p.key,
                    p.batch,
                    f"{p.created:%m-%d %H:%M:%S}",
                    "by itself" if p.retry_at else "by a person",
                    changes_text(p),
                    _first_line(p),
                )
                for p in shown
            ],
        )
        self.say(f"{len(parked)} writes are parked")
        writes = [
            {
                "id": p.pk,
                "database": p._state.db,
                "model": p.label,
                "key": p.key,
                "batch": p.batch,
                "created": p.created.isoformat(),
                "retry_at": p.retry_at and p.retry_at.isoformat(),
                "changes": changes_text(p),
                "error": p.error,
            }
            for p in shown
        ]
        return Report({"parked": len(parked), "writes": writes}, not parked)

    def _retry(self, options: dict[str, Any]) -> Report:
        applied, missing, refused = 0, 0, 0
        for using, writes in _by_database(self._chosen(options)).items():
            retried = writebehind.retry(writes, using)
            applied += retried.applied
            missing += retried.missing
            refused += len(retried.remaining)
            for write in retried.remaining:
                self.say(f"{write}: {write.error}")
        gone = f", {missing} were of rows that no longer exist" if missing else ""
        self.say(f"{applied} writes were applied{gone}, {refused} are still parked")
        return Report({"landed": applied, "missing": missing, "left": refused}, not refused)

    def _discard(self, options: dict[str, Any]) -> Report:
        chosen = self._chosen(options)
        question = f"Discard {len(chosen)} parked writes? They will never reach the database."
        if chosen and not options["yes"] and not self.can_ask:
            message = (
                f"{len(chosen)} parked writes would be discarded, and nobody can be asked (no terminal, or "
                "--json): nothing was discarded; add --yes to discard them"
            )
            raise CommandError(message)
        if not chosen or not (options["yes"] or self.agrees(question)):
            self.say("nothing was discarded")
            return Report({"discarded": 0})
        count = sum(writebehind.discard(writes, using) for using, writes in _by_database(chosen).items())
        self.say(f"{count} writes were discarded")
        return Report({"discarded": count})

    def _nodes(self, _: dict[str, Any]) -> Report:
        nodes, gone = writebehind.node_moves()
        self.print_table(
            ("node", "takes writes", "retiring", "queues", "queued", "to end"),
            [
                (n.node, _yes(n.is_active), _yes(n.is_retiring), n.queues, n.fields, len(n.left))
                for n in nodes
            ],
        )
        for node in nodes:
            for fault in node.faults:
                self.say(f"not well: {fault}")
            if node.left:
                self.say(
                    f"{node.node} still has queues of {', '.join(node.left)}; workers drain and end them, or "
                    "`manage.py writebehind drain` does"
                )
        for partition in gone:
            self.say(f"the queue of {partition} is on none of these nodes; name its node in `retiring`")
        is_done = all(node.is_done for node in nodes) and not gone
        if is_done and any(node.is_retiring for node in nodes):
            self.say("every queue has moved: when no process uses the old settings, remove `retiring`")
        data = [asdict(node) | {"done": node.is_done} for node in nodes]
        return Report({"nodes": data, "gone": gone, "done": is_done}, is_done)

    def _removed(self, options: dict[str, Any]) -> Report:
        removed = {each.label: each for each in writebehind.removed_models()}
        for label in filter(None, (options["drop"], options["drain"])):
            if label not in removed:
                message = f"no writes of a removed model {label!r} are queued or parked"
                raise CommandError(message)
        data: dict[str, Any] = {}
        if label := options["drop"]:
            question = f"Drop the writes of {label}? They will never reach the database."
            if not options["yes"] and not self.agrees(question):
                self.say("nothing was dropped; add --yes if nobody can be asked")
                return Report({"dropped": 0}, is_well=False)
            data["dropped"] = writebehind.drop_removed(removed[label])
            self.say(f"{data['dropped']} batches of {label} were dropped")
        if label := options["drain"]:
            into = _model(options["into"])
            data["rows"] = writebehind.drain_removed(removed[label], into)
            self.say(f"{data['rows']} rows of {into._meta.label} were changed")
        if data:
            removed = {each.label: each for each in writebehind.removed_models()}
        for each in removed.values():
            self.say(
                f"{each.label}: {len(each.partitions)} partitions with writes, {each.parked} parked writes"
            )
        models = [
            {"model": each.label, "partitions": list(map(str, each.partitions)), "parked": each.parked}
            for each in removed.values()
        ]
        return Report(data | {"models": models}, not removed)

    def _repair(self, options: dict[str, Any]) -> Report:
        faults = [self._repair_one(fault, options) for fault in writebehind.find_faults(seal=True)]
        if not faults:
            self.say("every queue agrees with its checkpoint")
        for reason in find_reasons(writebehind.partition_statuses()):
            if reason.kind is not Kind.STOPPED:
                self.say(f"repair does not help here: {reason}")
        return Report({"faults": faults}, all(each["repaired"] for each in faults))

    def _repair_one(self, fault: writebehind.Fault, options: dict[str, Any]) -> dict[str, Any]:
        opened = fault.state.open_batch if fault.state else None
        queue = (
            f"has batch {opened} open, and holds batches {list(fault.queued_batches)}"
            if opened
            else "is gone"
        )
        self.say(
            f"{fault.partition}: {fault.mismatch}. The last batch in the database is {fault.drained_batch}; "
            f"the queue {queue}"
        )
        keep, problem = self._keep(fault, options), None
        if keep is not None:
            try:
                writebehind.repair(fault, keep=keep)
            except WriteBehindError as error:
                keep, problem = None, str(error)
                self.say(problem)
        return {
            "partition": str(fault.partition),
            "trouble": str(fault.mismatch),
            "landed": fault.drained_batch,
            "open": opened,
            "standing": list(fault.queued_batches),
            "repaired": keep is not None,
            "error": problem,
        }

    def _keep(self, fault: writebehind.Fault, options: dict[str, Any]) -> bool | None:
        """Return whether to drain what the queue holds or to drop it; None: leave the queue stopped."""
        if options["keep"] or options["drop"]:
            return bool(options["keep"])
        if fault.mismatch is Mismatch.DATABASE_IS_OLDER:
            agrees = self.agrees(
                "The queue has deleted the batches that the database lost: they are gone, unless you restore "
                "the database to a later state. Drain what the queue holds into the database as it is?"
            )
            return True if agrees else None
        if fault.mismatch is Mismatch.BATCH_IS_MISSING:
            agrees = self.agrees("The writes of the missing batch are lost. Drain the batches after it?")
            return True if agrees else None
        if not fault.queued_batches:
            agrees = self.agrees("The queue is empty: what it held and was not drained is lost. Restart it?")
            return True if agrees else None
        self.say(
            "Drain these batches (what was drained before counts twice), or drop them (what was not drained "
            "is lost)? Writes that arrive from now on are drained in any case."
        )
        answer = self.ask("keep, drop, or leave it stopped [leave]: ").strip().lower()
        return {"keep": True, "drop": False}.get(answer)

    def _chosen(self, options: dict[str, Any]) -> list[tuple[str, ParkedWrite]]:
        """Return the parked writes of the numbers or the model that were given, each with its database.

        Without either, all of them.
        """
        label = options["model"] and _label(options["model"])
        chosen: list[tuple[str, ParkedWrite]] = []
        for using in writebehind.databases():
            writes = ParkedWrite.objects.using(using).all()
            if label:
                writes = writes.filter(label=label)
            if options["ids"]:
                writes = writes.filter(pk__in=[pk for alias, pk in options["ids"] if alias in {using, None}])
            chosen += [(using, write) for write in writes]
        for alias, pk in options["ids"]:
            found = [using for using, write in chosen if write.pk == pk and alias in {using, None}]
            if not found:
                message = f"no parked write has the number {_numbered(alias, pk)}"
                raise CommandError(message)
            if len(found) > 1:
                names = " or ".join(_numbered(using, pk) for using in found)
                message = f"{pk} is the number of a parked write in several databases: say {names}"
                raise CommandError(message)
        return chosen


def _exceeded(totals: Totals, options: dict[str, Any]) -> list[str]:
    """Return the thresholds that a figure exceeds."""
    limits = {"age": max_waiting_age(write_behind_options()), "queued": float("inf"), "parked": 0.0}
    limits |= {name: given for name in THRESHOLDS if (given := options.get(f"max_{name}")) is not None}
    figures = {"age": totals.oldest_seconds, "queued": totals.waiting, "parked": totals.parked}
    return [name for name, figure in figures.items() if figure > limits[name]]


_MODEL_HELP = "only those of a model, as app_label.model_name"


def _add_choice(parser: CommandParser) -> None:
    parser.add_argument(
        "ids", nargs="*", type=_number, help="numbers of parked writes, as `parked` lists them"
    )
    parser.add_argument("--model", help=_MODEL_HELP)
    parser.add_argument("--all", action="store_true", help="all of them")


def _number(text: str) -> tuple[str | None, int]:
    """Return the alias of the database, if one is given, and the number of a parked write."""
    alias, _, number = text.rpartition(":")
    return alias or None, int(number)


def _numbered(alias: str | None, pk: int) -> str:
    return f"{alias}:{pk}" if alias else str(pk)


def _label(name: str) -> str:
    """Return the label of a model; a model that no longer exists counts while writes of it are parked.

    Raises:
        CommandError: There is no such model; the message names those that there are.
    """
    try:
        return str(apps.get_model(name)._meta.label_lower)
    except (LookupError, ValueError) as error:
        labels = {model._meta.label_lower for model in behind_models()}
        for using in writebehind.databases():
            labels |= set(ParkedWrite.objects.using(using).order_by().values_list("label", flat=True))
        if name.lower() in labels:
            return name.lower()
        known = ", ".join(sorted(labels)) or "none"
        message = f"--model: {name!r} is not a model; the models with write-behind are: {known}"
        raise CommandError(message) from error


def _queued_cells(status: PartitionStatus) -> tuple[int, int, int, str]:
    return status.fields, status.bytes, status.sealed, f"{status.oldest_seconds:.1f}"


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _model(name: str) -> type[Model]:
    try:
        return apps.get_model(name)
    except (LookupError, ValueError) as error:
        message = f"{name!r} is not a model of this project"
        raise CommandError(message) from error


def _first_line(parked: ParkedWrite) -> str:
    """Return what Postgres said, without its details: they hold the whole row."""
    return parked.error.partition("\n")[0]


def _by_database(chosen: Iterable[tuple[str, ParkedWrite]]) -> dict[str, list[ParkedWrite]]:
    writes: dict[str, list[ParkedWrite]] = {}
    for using, write in chosen:
        writes.setdefault(using, []).append(write)
    return writes
