"""The actions of ``manage.py writebehind`` on parked writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from django.apps import apps
from django.core.management.base import CommandError, CommandParser
from django.templatetags.tz import localtime

from cachebackend import writebehind
from cachebackend.invalidation.outbox import READ_TIMEOUT
from cachebackend.invalidation.outbox_databases import ask_databases
from cachebackend.management.database_work import in_database
from cachebackend.management.report import AddAction, Report, ReportCommand
from cachebackend.models import ParkedWrite
from cachebackend.monitoring.parked import changes_text
from cachebackend.writebehind.queue import behind_models

__all__ = ["ParkedActions"]

_MODEL_HELP = "only those of a model, as app_label.model_name"


class ParkedActions(ReportCommand):
    """Lists, retries and discards parked writes."""

    def add_parked_actions(self, add: AddAction) -> None:
        """Add the actions."""
        parked = add("parked", help="list the writes that Postgres refused")
        parked.add_argument("--model", help=_MODEL_HELP)
        parked.add_argument("--limit", type=int, default=50, help="the most writes to list (50)")
        _add_choice(add("retry", help="try parked writes again"))
        discard = add("discard", help="delete parked writes for good")
        _add_choice(discard)
        discard.add_argument("--yes", action="store_true", help="do not ask")

    def check_parked_options(self, options: dict[str, Any]) -> None:
        """Refuse a limit that cannot work, and more than one choice of parked writes."""
        if options.get("limit", 1) < 1:
            message = f"--limit must be at least 1, not {options['limit']}"
            raise CommandError(message)
        if options["action"] in {"retry", "discard"}:
            choices = [bool(options[name]) for name in ("ids", "model", "all")]
            if sum(choices) != 1:
                wrong = "say which" if not any(choices) else "say which in one way only"
                message = f"{wrong}: numbers as `writebehind parked` lists them, --model, or --all"
                raise CommandError(message)

    def _parked(self, options: dict[str, Any]) -> Report:
        known = writebehind.all_databases()
        chosen = self._chosen(options | {"ids": []}, known)
        parked = [write for _, write in chosen]
        is_one = len(known) + len(known.errors) == 1
        shown = parked[: options["limit"]]
        self.print_table(
            ("id", "model", "key", "batch", "parked at", "retried", "changes", "error"),
            [
                (
                    p.pk if is_one else f"{p._state.db}:{p.pk}",
                    p.label,
                    p.key,
                    p.batch,
                    f"{localtime(p.created):%m-%d %H:%M:%S}",
                    "by itself" if p.retry_at else "by a person",
                    changes_text(p),
                    _first_line(p),
                )
                for p in shown
            ],
        )
        answered = [using for using in known if f"database {using!r}" not in chosen.errors]
        if answered:
            where = "in the databases that answer, " if chosen.errors else ""
            self.say(f"{where}{len(parked)} writes are parked")
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
        count = len(parked) if answered else None
        data = {"parked": count, "writes": writes, "unanswered": _unanswered(chosen)}
        return Report(data, not (parked or chosen.errors))

    def _retry(self, options: dict[str, Any]) -> Report:
        applied, missing, refused = 0, 0, 0
        chosen = self._chosen(options, writebehind.all_databases())
        for using, writes in _by_database(chosen).items():
            retried = in_database(using, partial(writebehind.retry, writes, using))
            applied += retried.applied
            missing += retried.missing
            refused += len(retried.remaining)
            for write in retried.remaining:
                self.say(f"{write}: {_first_line(write)}")
        gone = f", {missing} were of rows that no longer exist" if missing else ""
        left = f"{refused} are still parked" if not chosen.errors else "how many are still parked is unknown"
        self.say(f"{applied} writes were applied{gone}, {left}")
        data = {
            "landed": applied,
            "missing": missing,
            "left": None if chosen.errors else refused,
            "unanswered": _unanswered(chosen),
        }
        return Report(data, not (refused or chosen.errors))

    def _discard(self, options: dict[str, Any]) -> Report:
        chosen = self._chosen(options, writebehind.all_databases())
        question = f"Discard {len(chosen)} parked writes? They will never reach the database."
        if chosen and not options["yes"] and not self.can_ask:
            message = (
                f"{len(chosen)} parked writes would be discarded, and nobody can be asked (no terminal, or "
                "--json): nothing was discarded; add --yes to discard them"
            )
            raise CommandError(message)
        if not chosen or not (options["yes"] or self.agrees(question)):
            self.say("nothing was discarded")
            data = {"discarded": 0, "unanswered": _unanswered(chosen)}
            return Report(data, not chosen.errors, may_have_changed=False)
        count = sum(
            in_database(using, partial(writebehind.discard, writes, using))
            for using, writes in _by_database(chosen).items()
        )
        self.say(f"{count} writes were discarded")
        return Report({"discarded": count, "unanswered": _unanswered(chosen)}, not chosen.errors)

    def _chosen(
        self, options: dict[str, Any], known: writebehind.Answers[str]
    ) -> writebehind.Answers[tuple[str, ParkedWrite]]:
        """Return the parked writes of the numbers or the model that were given, each with its database.

        Without either, all of them. A database that does not answer is named.

        Args:
            options: Those of the action.
            known: The databases that may have parked writes.
        """
        label = options["model"] and _label(options["model"], known)
        chosen: writebehind.Answers[tuple[str, ParkedWrite]] = writebehind.Answers((), known.errors)
        asked = ask_databases(partial(_parked_in, label=label, ids=options["ids"]), READ_TIMEOUT, known)
        chosen += [(using, write) for using, writes in asked.found.items() for write in writes]
        chosen.errors |= {f"database {using!r}": error for using, error in asked.errors.items()}
        self.say_unanswered(chosen.errors)
        for alias, pk in options["ids"]:
            found = [using for using, write in chosen if write.pk == pk and alias in {using, None}]
            if not found or alias is None:
                _require_all(chosen.errors)  # else a database that does not answer may have the number
            if not found:
                message = f"no parked write has the number {_numbered(alias, pk)}"
                raise CommandError(message)
            if len(found) > 1:
                names = " or ".join(_numbered(using, pk) for using in found)
                message = f"{pk} is the number of a parked write in several databases: say {names}"
                raise CommandError(message)
        return chosen


def _unanswered(chosen: writebehind.Answers[tuple[str, ParkedWrite]]) -> dict[str, str]:
    """Return the error of each database whose parked writes are not known, for ``--json``."""
    return {name: str(error) for name, error in chosen.errors.items()}


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


def _require_all(errors: Mapping[str, Exception]) -> None:
    """Refuse to go by a number that a database may have which does not answer."""
    for name, error in errors.items():
        message = f"{name} does not answer, and may have a parked write with this number: {error}"
        raise CommandError(message) from error


def _label(name: str, known: writebehind.Answers[str]) -> str:
    """Return the label of a model; a model that no longer exists counts while writes of it are parked.

    Raises:
        CommandError: There is no such model; the message names those that there are.
    """
    try:
        return str(apps.get_model(name)._meta.label_lower)
    except (LookupError, ValueError) as error:
        asked = ask_databases(_labels_in, READ_TIMEOUT, known)
        labels = {model._meta.label_lower for model in behind_models()}.union(*asked.found.values())
        if name.lower() in labels:
            return name.lower()
        names = ", ".join(sorted(labels)) or "none"
        message = f"--model: {name!r} is not a model; the models with write-behind are: {names}"
        for each in [*known.errors, *(f"database {using!r}" for using in asked.errors)]:
            message += f"; {each} does not answer, and may have parked writes of others"
        raise CommandError(message) from error


def _labels_in(using: str) -> set[str]:
    return set(ParkedWrite.objects.using(using).order_by().values_list("label", flat=True).distinct())


def _parked_in(using: str, *, label: str | None, ids: Sequence[tuple[str | None, int]]) -> list[ParkedWrite]:
    """Return the parked writes of a database: of a model and of some numbers, if they are given."""
    writes = ParkedWrite.objects.using(using).all()
    if label:
        writes = writes.filter(label=label)
    if ids:
        writes = writes.filter(pk__in=[pk for alias, pk in ids if alias in {using, None}])
    return list(writes)


def _first_line(parked: ParkedWrite) -> str:
    """Return what Postgres said, without its details: they hold the whole row."""
    return parked.error.partition("\n")[0]


def _by_database(chosen: Iterable[tuple[str, ParkedWrite]]) -> dict[str, list[ParkedWrite]]:
    writes: dict[str, list[ParkedWrite]] = {}
    for using, write in chosen:
        writes.setdefault(using, []).append(write)
    return writes
