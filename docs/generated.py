"""Parts of pages that are made from the code, so that they cannot differ from it.

    python -m docs.generated          # writes them into the pages
    python -m docs.generated --check  # exits with 1 if a page is out of date

A page marks such a part by two lines, between which everything is replaced:

    <!-- generated: options cachebackend.options.ring.RingOptions -->
    <!-- end generated -->
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cacheproject.settings")
django.setup()

from django.core.management import load_command_class  # noqa: E402  # needs the settings

from cachebackend import checks, errors  # noqa: E402  # needs the apps
from cachebackend.monitoring.runbook import runbook_text  # noqa: E402  # needs the apps
from docs.docstrings import attributes_of, class_entry, function_entry  # noqa: E402

__all__ = ["filled", "main", "stale_pages"]

DOCS = Path(__file__).resolve().parent
END = "<!-- end generated -->"
_PART = re.compile(rf"^(<!-- generated: (\w+)(?: (\S+))? -->)\n(?:.*?\n)??{END}$", re.MULTILINE | re.DOTALL)
#: Public by name, but called by the library alone.
_INTERNAL = frozenset(
    {
        "begin",
        "cached_rows",
        "caches_absence",
        "can_clear",
        "close",
        "collect",
        "contribute_to_class",
        "differing",
        "escaped",
        "fill_options",
        "keys_of",
        "lookup_fields",
        "many_key_bytes",
        "many_tag_bytes",
        "pattern_of",
        "prefix",
        "record",
        "refill",
        "tag_bytes",
        "tag_pattern",
        "ttl_ms",
    }
)
#: Arguments that every management command has.
_DJANGOS = frozenset(
    {
        "--force-color",
        "--help",
        "--no-color",
        "--pythonpath",
        "--settings",
        "--skip-checks",
        "--traceback",
        "--verbosity",
    }
)


def filled(text: str) -> str:
    """Return the text of a page with every generated part as the code has it now."""
    return _PART.sub(lambda part: f"{part[1]}\n\n{_KINDS[part[2]](part[3]).strip()}\n\n{END}", text)


def stale_pages() -> dict[Path, str]:
    """Return the pages that are out of date, with the text that they should have."""
    texts = {page: page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))}
    return {page: new for page, text in texts.items() if (new := filled(text)) != text}


def main(arguments: list[str] | None = None) -> int:
    """Write the generated parts of all pages, or check them; return the exit code."""
    parser = argparse.ArgumentParser(description="Write the parts of pages that are made from the code.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if a page is out of date"
    )
    given = parser.parse_args(arguments)
    stale = stale_pages()
    for page, text in stale.items():
        if not given.check:
            page.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{page.name} {'is out of date' if given.check else 'is written'}\n")
    return 1 if stale and given.check else 0


def _options(name: str) -> str:
    """Return a table of the fields of an options class, with their defaults."""
    cls = _named(name)
    texts = attributes_of(cls.__doc__)
    rows = [
        (f"`{field.name}`", _default(field), texts[field.name] + _choices(field)) for field in fields(cls)
    ]
    return _table(("option", "default", "meaning"), rows)


def _choices(field: Any) -> str:
    """Return the values that an option may have, if there are only a few."""
    rule = field.metadata.get("rule")
    rule = getattr(rule, "rule", rule)  # of an optional one
    words = getattr(rule, "words", ())
    return " One of " + ", ".join(f'`"{word}"`' for word in words) + "." if words else ""


def _named(path: str) -> Any:
    """Return the object with a dotted path."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _default(field: Any) -> str:
    if field.default is MISSING:
        return "required"
    return "`[]`" if field.default == () else f"`{field.default!r}`".replace("'", '"')


def _counters(name: str) -> str:
    """Return a table of the counters of a class."""
    counts = _named(f"cachebackend.{name}")
    texts = attributes_of(counts.__doc__)
    return _table(
        ("counter", "what it counts"), [(f"`{field.name}`", texts[field.name]) for field in fields(counts)]
    )


def _errors(_: str) -> str:
    """Return a table of the errors, each with its base class and its docstring."""
    rows = []
    for name in errors.__all__:
        cls = getattr(errors, name)
        meaning = inspect.cleandoc(cls.__doc__).partition("\n")[0]
        extra = ", ".join(f"`{word}`: {text}" for word, text in attributes_of(cls.__doc__).items())
        rows.append((f"`{name}`", f"`{cls.__bases__[0].__name__}`", f"{meaning} {extra}".strip()))
    return _table(("error", "base class", "meaning"), rows)


def _checks(_: str) -> str:
    """Return a table of the system checks."""
    rows = []
    for name in checks.__all__:
        number, colon, text = (inspect.getdoc(getattr(checks, name)) or "").partition(":")
        if colon and number.startswith("ringcache."):
            rows.append((f"`{number}`", " ".join(text.split())))
    return _table(("check", "what it reports"), sorted(rows))


def _command(name: str) -> str:
    """Return the description of a command and of each of its actions, with their arguments."""
    app = "cacheproject.demo" if name in {"demo", "replay", "services"} else "cachebackend"
    parser = load_command_class(app, name).create_parser("manage.py", name)
    lines = [f"{parser.description}", "", *_arguments(parser)]
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        for pseudo in action._choices_actions:
            lines += ["", f"**`manage.py {name} {pseudo.dest}`**: {pseudo.help}", ""]
            lines += _arguments(action.choices[pseudo.dest])
    return "\n".join(lines)


def _arguments(parser: argparse.ArgumentParser) -> list[str]:
    """Return a list of a parser's arguments, without those that every command has."""
    shown = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._VersionAction):
            continue
        if _DJANGOS.intersection(action.option_strings) or action.help == argparse.SUPPRESS:
            continue
        words = (
            " / ".join(f"`{word}`" for word in action.option_strings) or f"`{action.metavar or action.dest}`"
        )
        if action.choices is not None and not isinstance(action.choices, range):  # its help names the range
            words += " (" + ", ".join(f"`{choice}`" for choice in action.choices) + ")"
        shown.append(f"- {words}: {action.help or ''}".replace("%%", "%").rstrip(": "))
    return shown


def _runbook(_: str) -> str:
    """Return the section of each kind of fault."""
    return runbook_text()


def _class(name: str) -> str:
    """Return the reference of a class and its methods."""
    return class_entry(_named(name), name, _INTERNAL)


def _function(name: str) -> str:
    """Return the reference of a function, or of a Celery task."""
    function = _named(name)
    return function_entry(getattr(function, "run", function), name, level=3)


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("``", "`").replace("|", "\\|") for cell in line) + " |"
        for line in lines
    )


_KINDS: dict[str, Callable[[str], str]] = {
    "checks": _checks,
    "class": _class,
    "command": _command,
    "counters": _counters,
    "errors": _errors,
    "function": _function,
    "options": _options,
    "runbook": _runbook,
}


if __name__ == "__main__":
    sys.exit(main())
