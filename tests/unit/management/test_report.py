"""The base class of the report commands."""

from __future__ import annotations

import json
import sys
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, CommandParser, call_command
from django.db import OperationalError

from cachebackend.errors import RingCacheError
from cachebackend.management.commands.invalidation import Command as InvalidationCommand
from cachebackend.management.commands.ring import Command as RingCommand
from cachebackend.management.commands.writebehind import Command as WriteBehindCommand
from cachebackend.management.report import AddAction, Report, ReportCommand

COMMANDS = {"invalidation": InvalidationCommand, "ring": RingCommand, "writebehind": WriteBehindCommand}
STANDARD = [
    "-v",
    "2",
    "--settings=x.settings",
    "--pythonpath",
    "lib",
    "--traceback",
    "--no-color",
    "--skip-checks",
]


class Weather(ReportCommand):
    """A command with one action."""

    examples = "  manage.py weather today\n"
    requires_system_checks = ()
    outcome: Report | Exception = Report({"rain": 1})

    def add_actions(self, parser: CommandParser, add: AddAction) -> None:
        today = add("today", help="of today")
        self.add_option([parser, today], "--hours", type=int, default=24, help="for how long")

    def _today(self, options: dict[str, Any]) -> Report:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        self.say(f"rain for {options['hours']} h")
        self.print_table(["hour"], [[1]])
        self.say(f"umbrella: {self.agrees('Take one?')}")
        return self.outcome


def run(*words: str, outcome: Report | Exception = Weather.outcome) -> str:
    out = StringIO()
    command = Weather(stdout=out)
    command.outcome = outcome
    call_command(command, *words)
    return out.getvalue()


def test_text_is_for_people_and_json_for_scripts() -> None:
    """With ``--json`` nothing except JSON is printed; it may come before or after the action."""
    assert run("today") == "rain for 24 h\nhour\n1\numbrella: False\n"
    for words in (["today", "--json"], ["--json", "today"]):
        assert json.loads(run(*words)) == {"rain": 1}


def test_a_report_that_is_not_well_exits_with_1() -> None:
    """After it was printed."""
    with pytest.raises(SystemExit) as ended:
        run("today", outcome=Report({}, is_well=False))
    assert ended.value.code == 1


@pytest.mark.parametrize("error", [RingCacheError("no node"), OperationalError("no database")])
def test_a_server_that_does_not_answer_is_an_error_of_the_command(error: Exception) -> None:
    """With the message of the original error, without a traceback."""
    with pytest.raises(CommandError, match=str(error)):
        run("today", outcome=error)


@pytest.mark.parametrize("words", [["--hours", "3", "today"], ["today", "--hours", "3"]])
def test_an_option_may_come_before_or_after_the_action(words: list[str]) -> None:
    """The action's own default does not hide what was given before it."""
    assert run(*words).startswith("rain for 3 h\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_djangos_options_may_come_before_or_after_the_action(name: str) -> None:
    """``ring status -v 2`` is the same as ``ring -v 2 status``."""
    parser = COMMANDS[name]().create_parser("manage.py", name)
    for words in (["status", *STANDARD], [*STANDARD, "status"]):
        options = parser.parse_args(words)
        assert (options.verbosity, options.settings, options.pythonpath) == (2, "x.settings", "lib")
        assert (options.traceback, options.no_color, options.skip_checks) == (True, True, True)
        assert (options.force_color, options.json) == (False, False)
    options = parser.parse_args(["status"])
    assert (options.verbosity, options.settings, options.traceback) == (1, None, False)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_the_examples_as_they_are_written(name: str) -> None:
    """And what the exit code means."""
    text = COMMANDS[name]().create_parser("manage.py", name).format_help()
    assert f"examples:\n  manage.py {name} status" in text
    assert "Exits with 1 if the report finds a fault." in text


def number_options() -> list[tuple[str, list[str], str]]:
    """Each option of a command that takes a number with a fraction, with the words before it."""
    found = []
    for name, command in COMMANDS.items():
        parser = command().create_parser("manage.py", name)
        [actions] = [each.choices for each in parser._actions if each.dest == "action"]
        for action, of_action in dict(actions or {}).items():  # type: ignore[call-overload]  # parsers by name
            words = [
                action,
                *("1" for each in of_action._actions if each.required and not each.option_strings),
            ]
            found += [
                (name, words, each.option_strings[0]) for each in of_action._actions if each.type is float
            ]
    return found


@pytest.mark.parametrize(("name", "words", "option"), number_options())
def test_no_number_is_nan(name: str, words: list[str], option: str) -> None:
    """It is neither above nor below a threshold, so the threshold would be off."""
    command = COMMANDS[name]()
    options = vars(command.create_parser("manage.py", name).parse_args([*words, option, "nan"]))
    with pytest.raises(CommandError, match=f"{option} must be a number, not nan"):
        command.handle(**options)


def test_a_parent_may_close_the_standard_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """As some daemons do: nobody can be asked, and the output is lost."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    command = Weather()
    assert command.agrees("Rain?") is False
    command.run_from_argv(["manage.py", "weather", "today"])
    for name in ("stdin", "stdout", "stderr"):
        getattr(sys, name).close()
