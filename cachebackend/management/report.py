"""The base of the commands that report: their options, tables, JSON, questions and exit codes."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from cachebackend.errors import RingCacheError
from cachebackend.management.audit_trail import record_command
from cachebackend.management.tables import print_table, printable

__all__ = ["AddAction", "Report", "ReportCommand"]

#: The exit code after the reader of the output closed it: what a shell reports for SIGPIPE.
CLOSED_PIPE_CODE = 141
#: Adds the parser of an action: ``add("status", help="…")``.
AddAction: TypeAlias = Callable[..., CommandParser]
#: Django's own options, which a command takes before its action, and these parsers after it.
_STANDARD_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("-v", "--verbosity"), {"type": int, "choices": [0, 1, 2, 3]}),
    (("--settings",), {}),
    (("--pythonpath",), {}),
    (("--traceback",), {"action": "store_true"}),
    (("--no-color",), {"action": "store_true"}),
    (("--force-color",), {"action": "store_true"}),
    (("--skip-checks",), {"action": "store_true"}),
)


class Report(NamedTuple):
    """The result of an action.

    Attributes:
        data: The object that ``--json`` prints.
        is_well: Whether the command exits with 0; else it exits with 1.
        may_have_changed: Whether the action may have changed something. The timeline has only such actions.
    """

    data: dict[str, Any]
    is_well: bool = True
    may_have_changed: bool = True


class ReportCommand(BaseCommand):
    """A command with actions, such as ``manage.py ring status``; each is the method ``_<action>``.

    An action prints text for people as it goes, and returns a ``Report``. With ``--json`` its text
    is not printed, the report's data is, and questions are answered with no.

    Attributes:
        examples: Example calls, one a line; shown by ``--help``.
        reading: The actions that change nothing; the others are recorded in the timeline, even if they fail.
    """

    examples = ""
    reading: frozenset[str] = frozenset()
    is_json = False

    def __init__(self, *args: Any, **named: Any) -> None:
        _open_closed_streams()
        super().__init__(*args, **named)

    @abstractmethod
    def add_actions(self, parser: CommandParser, add: AddAction) -> None:
        """Add a parser for each action, with the action's own options.

        Args:
            parser: The command's own parser, for options that may come before the action too.
            add: Adds an action and returns its parser.
        """

    def run_from_argv(self, argv: list[str]) -> None:
        """Run the command; end without a message if the reader of the output closes it, as ``head`` does."""
        try:
            try:
                super().run_from_argv(argv)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            # Python flushes the rest at exit, and would report the same error there
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(CLOSED_PIPE_CODE)

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Return the parser, with the examples below its help."""
        epilog = f"examples:\n{self.examples}\nExits with 1 if the report finds a fault.\n"
        formatter = argparse.RawDescriptionHelpFormatter
        return super().create_parser(
            prog_name, subcommand, epilog=epilog, formatter_class=formatter, **kwargs
        )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the actions; ``--json`` and Django's own options may come before or after the action."""
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        self.add_actions(parser, actions.add_parser)
        self.add_option([parser, *actions.choices.values()], "--json", action="store_true", help=_JSON_HELP)
        self._parsers = actions.choices
        for flags, named in _STANDARD_OPTIONS:
            for each in actions.choices.values():
                each.add_argument(*flags, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **named)

    @staticmethod
    def add_option(parsers: Iterable[CommandParser], *flags: str, help: str, **named: Any) -> None:  # noqa: A002  # argparse's name
        """Add an option to the command's parser and, without a default that hides its value, to others.

        Args:
            parsers: The command's own parser, then those of actions.
            flags: The option's names.
            help: Its help, shown with the actions.
            named: What argparse's ``add_argument`` takes.
        """
        command, *actions = parsers
        command.add_argument(*flags, help=argparse.SUPPRESS, **named)
        for each in actions:
            each.add_argument(*flags, help=help, **(named | {"default": argparse.SUPPRESS}))

    def handle(self, *_: Any, **options: Any) -> None:
        """Run the action, print its report, and exit with 1 if it is not well."""
        self.is_json = options["json"]
        for name, value in options.items():
            if isinstance(value, float) and math.isnan(value):  # it is neither above nor below a limit
                message = f"--{name.replace('_', '-')} must be a number, not nan"
                raise CommandError(message)
        self.check_options(options)
        report: Report | None = None
        try:
            report = getattr(self, f"_{options['action']}")(options)
        except (RingCacheError, ImproperlyConfigured, Error) as error:
            raise CommandError(str(error)) from error
        finally:
            self._record(options, report)
        assert report is not None  # noqa: S101  # the action returned
        if self.is_json:
            self.stdout.write(json.dumps(report.data, default=str))
        if not report.is_well:
            sys.exit(1)

    def _record(self, options: dict[str, Any], report: Report | None) -> None:
        """Store in the timeline that the action ran, unless it changed nothing; None: it failed."""
        if options["action"] in self.reading or options.get("listen"):
            return
        if report is None or report.may_have_changed:
            outcome = "failed" if report is None else "done" if report.is_well else "not well"
            name, parser = type(self).__module__.rpartition(".")[2], self._parsers[options["action"]]
            given = {key: value for key, value in options.items() if value != parser.get_default(key)}
            record_command(name, given | {"action": options["action"]}, outcome)

    def check_options(self, options: dict[str, Any]) -> None:
        """Raise ``CommandError`` for options that argparse cannot refuse."""

    def say(self, text: str) -> None:
        """Print a line for people."""
        if not self.is_json:
            self.stdout.write(printable(text))

    def say_unanswered(self, errors: Mapping[str, object]) -> None:
        """Print for each server that did not answer that the report does not cover it, and its error."""
        for name, error in errors.items():
            self.say(f"not well: {name} did not answer, so what it holds is not known: {error}")

    def say_progress(self, text: str) -> None:
        """Print a line about work that is not finished, to the error stream."""
        if not self.is_json:
            self.stderr.write(printable(text))

    def print_table(self, names: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
        """Print a table for people."""
        if not self.is_json:
            print_table(self.stdout, names, rows)

    @property
    def can_ask(self) -> bool:
        """Whether a person can answer: not with ``--json``, and not without a terminal."""
        return not self.is_json and sys.stdin.isatty()

    def ask(self, question: str) -> str:
        """Return the user's answer; empty if nobody can answer."""
        return input(question) if self.can_ask else ""

    def agrees(self, question: str) -> bool:
        """Return whether the user agrees; nothing is done that nobody agreed to."""
        return self.ask(f"{question} [y/N] ").strip().lower() in {"y", "yes"}


def _open_closed_streams() -> None:
    """Open the null device for each standard stream that the parent process closed, as some daemons do."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # until exit


_JSON_HELP = "print one JSON object as the last line"
