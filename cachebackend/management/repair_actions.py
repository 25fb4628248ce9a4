"""The actions of ``manage.py writebehind`` on queues that moved, stopped, or lost their model."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from django.apps import apps
from django.core.management.base import CommandError
from django.db import router
from django.db.models import Model

from cachebackend import writebehind
from cachebackend.errors import WriteBehindError
from cachebackend.management.database_work import in_database
from cachebackend.management.report import AddAction, Report, ReportCommand
from cachebackend.models import ParkedWrite
from cachebackend.monitoring.reasons import Kind, find_reasons, summaries
from cachebackend.writebehind.repair import Mismatch

__all__ = ["RepairActions"]

_CHOICE = (
    "nothing was asked, because there is no terminal: --keep drains what these queues hold (what was drained "
    "before counts twice), --drop deletes it (what was not drained is lost); what a queue held that is gone "
    "is lost in both cases"
)


class RepairActions(ReportCommand):
    """Moves, restarts and drops queues that no worker drains."""

    def add_repair_actions(self, add: AddAction) -> None:
        """Add the actions."""
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

    def check_repair_options(self, options: dict[str, Any]) -> None:
        """Refuse one of two options that belong together."""
        if options["action"] == "removed" and bool(options["drain"]) != bool(options["into"]):
            message = "--drain LABEL and --into MODEL belong together"
            raise CommandError(message)

    def _nodes(self, _: dict[str, Any]) -> Report:
        nodes, gone = writebehind.node_moves()
        self.print_table(
            ("node", "takes writes", "retiring", "queues", "queued", "to end"),
            [
                (n.node, _yes(n.is_active), _yes(n.is_retiring), *map(_known, (n.queues, n.fields, _ends(n))))
                for n in nodes
            ],
        )
        # Several parts of a queue are on one server of a cluster
        for fault in dict.fromkeys(fault for node in nodes for fault in node.faults):
            self.say(f"not well: {fault}")
        for node in nodes:
            if node.left:
                self.say(
                    f"{node.node} still has queues of {', '.join(node.left)}; workers drain and end them, or "
                    "`manage.py writebehind drain` does"
                )
        for partition in gone:
            self.say(f"the queue of {partition} is on none of these nodes; name its node in `retiring`")
        self.say_unanswered(gone.errors)
        is_done = all(node.is_done for node in nodes) and not (gone or gone.errors)
        if is_done and any(node.is_retiring for node in nodes):
            self.say("every queue has moved: when no process uses the old settings, remove `retiring`")
        data = [asdict(node) | {"done": node.is_done} for node in nodes]
        unanswered = {name: str(error) for name, error in gone.errors.items()}
        return Report({"nodes": data, "gone": gone, "unanswered": unanswered, "done": is_done}, is_done)

    def _removed(self, options: dict[str, Any]) -> Report:
        found = writebehind.removed_models()
        removed = {each.label: each for each in found}
        for label in filter(None, (options["drop"], options["drain"])):
            if label not in removed:
                found.complete()  # else another server may hold them
                message = f"no writes of a removed model {label!r} are queued or parked"
                raise CommandError(message)
        data: dict[str, Any] = {}
        if label := options["drop"]:
            question = f"Drop the writes of {label}? They will never reach the database."
            if not options["yes"] and not self.agrees(question):
                self.say("nothing was dropped; add --yes if nobody can be asked")
                return Report({"dropped": 0}, is_well=False, may_have_changed=False)
            using = next(iter(removed[label].databases), router.db_for_write(ParkedWrite))
            data["dropped"] = in_database(using, partial(writebehind.drop_removed, removed[label]))
            self.say(f"{data['dropped']} batches of {label} were dropped")
        if label := options["drain"]:
            into = _model(options["into"])
            question = (
                f"Writes of {into._meta.label} were drained since those of {label} were queued. Where both "
                "set the same column of a row, the older value replaces the newer one. Drain them?"
            )
            using = router.db_for_write(into)
            is_newer = not options["yes"] and in_database(
                using, partial(writebehind.would_replace_newer, removed[label], into)
            )
            if is_newer and not self.agrees(question):
                self.say("nothing was drained; add --yes if nobody can be asked")
                return Report({"rows": 0}, is_well=False, may_have_changed=bool(data))
            data["rows"] = in_database(using, partial(writebehind.drain_removed, removed[label], into))
            self.say(f"{data['rows']} rows of {into._meta.label} were changed")
        if data:
            found = writebehind.removed_models()
        self.say_unanswered(found.errors)
        for each in found:
            self.say(
                f"{each.label}: {len(each.partitions)} partitions with writes, {each.parked} parked writes"
            )
        models = [
            {"model": each.label, "partitions": list(map(str, each.partitions)), "parked": each.parked}
            for each in found
        ]
        unanswered = {name: str(error) for name, error in found.errors.items()}
        is_well = not (found or unanswered)
        return Report(data | {"models": models, "unanswered": unanswered}, is_well, bool(data))

    def _repair(self, options: dict[str, Any]) -> Report:
        found = writebehind.find_faults(seal=True)
        faults = [self._repair_one(fault, options) for fault in found]
        if not all(each["repaired"] for each in faults) and not self.can_ask:
            self.say(_CHOICE)
        self.say_unanswered(found.errors)
        if not (faults or found.errors):
            self.say("every queue agrees with its checkpoint")
        others = [
            each for each in find_reasons(writebehind.partition_statuses()) if each.kind is not Kind.STOPPED
        ]
        for line in summaries(others):
            self.say(f"repair does not help here: {line}")
        is_well = all(each["repaired"] for each in faults) and not (others or found.errors)
        unanswered = {name: str(error) for name, error in found.errors.items()}
        return Report({"faults": faults, "unanswered": unanswered}, is_well)

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
                in_database(fault.using, partial(writebehind.repair, fault, keep=keep))
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


def _model(name: str) -> type[Model]:
    try:
        return apps.get_model(name)
    except (LookupError, ValueError) as error:
        message = f"{name!r} is not a model of this project"
        raise CommandError(message) from error


def _ends(node: writebehind.NodeMoves) -> int | None:
    """Return how many queues on a node are left to end; None if it does not answer."""
    return None if node.left is None else len(node.left)


def _known(number: int | None) -> str:
    return "unknown" if number is None else str(number)


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
