"""The table of a game day, in a terminal and as Markdown in docs/production.md."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import shorten

from tests.gameday.play import COMMANDS, Outcome

__all__ = ["PAGE", "cells", "markdown", "titles", "write"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "production.md"
_PART = re.compile(r"(<!-- game day -->\n).*?(<!-- end of the game day -->)", re.DOTALL)
#: The most characters of what was wrong.
MAX_TEXT = 240
_PLACES = ("page", "metrics", "commands", "log")


def titles() -> Sequence[str]:
    """Return the titles of the columns."""
    return ("incident", "fault", "seen", *_PLACES, "exit codes", "well again", "pages not served")


def cells(outcome: Outcome) -> Sequence[str]:
    """Return the row of an incident."""
    judged = [_judgement(outcome, place) for place in _PLACES]
    codes = " ".join(str(outcome.codes.get(name, "-")) for name in COMMANDS)
    return (
        outcome.name,
        outcome.kind or "none",
        _seconds(outcome.seen),
        *judged,
        f"**{codes}**" if "exit codes" in outcome.wrong else codes,
        "**no**" if "end" in outcome.wrong else _seconds(outcome.well),
        f"{outcome.failed_pages} of {outcome.pages}",
    )


def markdown(outcomes: Iterable[Outcome], seconds: float, timeout: float) -> str:
    """Return the text of the section: how it was played, the table, and what was wrong."""
    load, processors = os.getloadavg()[0], os.cpu_count()
    rows = [titles(), ["---"] * len(titles()), *map(cells, outcomes)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    wrong = [
        f"- {outcome.name}, {place}: {shorten(text, MAX_TEXT)}"
        for outcome in outcomes
        for place, texts in outcome.wrong.items()
        for text in texts
    ]
    found = "\n".join(wrong) if wrong else "Nothing was missing or wrong."
    return (
        f"Played on {processors} processors with a load average of {load:.1f} at the end, with timeouts of "
        f"{timeout:g} s for nodes; the healthy site was watched for {seconds:.0f} s. The exit codes are "
        f"those of {', '.join(f'`{name}`' for name in COMMANDS)}.\n\n{table}\n\n{found}\n"
    )


def write(text: str) -> None:
    """Replace the section in the page."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_PART.sub(lambda part: f"{part[1]}\n{text}\n{part[2]}", page), encoding="utf-8")


def _judgement(outcome: Outcome, place: str) -> str:
    if place in outcome.wrong:
        return "**no**"
    return "yes" if place in outcome.judged else ""


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"
