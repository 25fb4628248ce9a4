"""Parts of pages that are made from the code, so that they cannot differ from it.

A line ``<!-- generated: WHAT NAME -->`` in a page is replaced as the page is read.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from django.core.management import load_command_class

from cachebackend import checks, errors

__all__ = ["fill_in"]

DOCS = Path(__file__).resolve().parent
_MARK = re.compile(r"^<!-- generated: (\w+)(?: (\S+))? -->$", re.MULTILINE)
_ATTRIBUTE = re.compile(r"^    (\w+): (.*)$")


def fill_in(app: Any, name: str, source: list[str]) -> None:
    """Replace the marks of a page."""
    source[0] = _MARK.sub(lambda mark: _KINDS[mark[1]](mark[2]), source[0])


def attributes_of(docstring: str) -> dict[str, str]:
    """Return what the section ``Attributes:`` of a docstring says of each, in one line."""
    found: dict[str, str] = {}
    name = ""
    _, _, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    for line in section.splitlines():
        if match := _ATTRIBUTE.match(line):
            name, found[match[1]] = match[1], match[2]
        elif line.startswith("     ") and name:
            found[name] += " " + line.strip()
    return found


def _options(name: str) -> str:
    """Return a table of the fields of an options class, with their defaults."""
    module, _, word = name.rpartition(".")
    cls = getattr(import_module(module), word)
    texts = attributes_of(cls.__doc__)
    rows = [(f"`{field.name}`", _default(field), texts[field.name]) for field in fields(cls)]
    return _table(("option", "default", ""), rows)


def _default(field: Any) -> str:
    if field.default is MISSING:
        return "required"
    return "`[]`" if field.default == () else f"`{field.default!r}`".replace("'", '"')


def _counters(name: str) -> str:
    """Return a table of the counters of a class."""
    counts = getattr(import_module("cachebackend.counters"), name)
    texts = attributes_of(counts.__doc__)
    return _table(
        ("counter", "what counts"), [(f"`{field.name}`", texts[field.name]) for field in fields(counts)]
    )


def _errors(_: str) -> str:
    """Return a table of the errors, each with its base and what its docstring says."""
    rows = []
    for name in errors.__all__:
        cls = getattr(errors, name)
        meaning = inspect.cleandoc(cls.__doc__).partition("\n")[0]
        extra = ", ".join(f"`{word}`: {text}" for word, text in attributes_of(cls.__doc__).items())
        rows.append((f"`{name}`", f"`{cls.__bases__[0].__name__}`", f"{meaning} {extra}".strip()))
    return _table(("error", "is a", "meaning"), rows)


def _checks(_: str) -> str:
    """Return a table of the system checks."""
    rows = []
    for name in checks.__all__:
        number, colon, text = (inspect.getdoc(getattr(checks, name)) or "").partition(":")
        if colon and number.startswith("ringcache."):
            rows.append((f"`{number}`", " ".join(text.split())))
    return _table(("check", "what it says"), sorted(rows))


def _command(name: str) -> str:
    """Return what ``--help`` says of a command and of each of its actions."""
    app = "cacheproject.demo" if name in {"demo", "replay", "services"} else "cachebackend"
    parser = load_command_class(app, name).create_parser("manage.py", name)
    djangos = {"--version", "-v", "--settings", "--pythonpath", "--traceback", "--no-color", "--force-color"}
    djangos |= {"--skip-checks", "-h", "--help"}
    lines = [f"{parser.description}", ""]
    lines += _arguments(parser, djangos)
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        for pseudo in action._choices_actions:
            lines += ["", f"`manage.py {name} {pseudo.dest}`", f": {pseudo.help}", ""]
            lines += ["  " + line for line in _arguments(action.choices[pseudo.dest], djangos)]
    return "\n".join(lines) + "\n"


def _arguments(parser: argparse.ArgumentParser, hidden: set[str]) -> list[str]:
    """Return a list of a parser's arguments, without those that every command has."""
    shown = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) or hidden.intersection(action.option_strings):
            continue
        words = (
            " / ".join(f"`{word}`" for word in action.option_strings) or f"`{action.metavar or action.dest}`"
        )
        if action.choices is not None:
            words += " (" + ", ".join(f"`{choice}`" for choice in action.choices) + ")"
        shown.append(f"- {words}: {action.help or ''}".rstrip(": "))
    return shown


def _others(_: str) -> str:
    """Return the pages that the index does not name."""
    named = (DOCS / "index.md").read_text(encoding="utf-8").split()
    return "\n".join(sorted({page.stem for page in DOCS.glob("*.md")} - {*named, "index"}))


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )


_KINDS: dict[str, Callable[[str], str]] = {
    "checks": _checks,
    "command": _command,
    "counters": _counters,
    "errors": _errors,
    "options": _options,
    "others": _others,
}
