"""The goals of speed, and the command that measures them: ratios between ways that take turns in one run.

A subject is a module of this folder that has ``GOALS`` and ``measure(*, quick) -> Measured``. It is
found by these names.

``python -m benchmarks.goals`` measures every subject in a process of its own, prints each goal with
its figure and quartiles, and writes ``benchmarks/results.json``, ``docs/benchmarks.md`` and its charts.
``--update hits rows`` measures some subjects and keeps the figures of the others. ``--only hits`` measures
one subject, and ``--quick`` takes fewer rounds; both write nothing. Exits with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import pkgutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import benchmarks
from benchmarks.page import machine, write
from benchmarks.rounds import take_turns

__all__ = ["Goal", "Measured", "Ratios", "measure_ratios"]

ROOT = Path(__file__).resolve().parent.parent
ROUNDS, QUICK_ROUNDS = 101, 31


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on the ratio of two ways.

    Attributes:
        work: The way that is measured.
        compared_with: The way that it is compared with.
        bound: The bound on the median of the ratios.
        kind: ``at_most``: ``work`` takes at most ``bound`` times as long. ``at_least``: it is at least
            ``bound`` times as fast.
        why_missed: A sentence that the page prints if the goal is missed.
    """

    work: str
    compared_with: str
    bound: float
    kind: Literal["at_most", "at_least"]
    why_missed: str = ""

    def ratios(self, work: Iterable[float], compared_with: Iterable[float]) -> list[float]:
        """Return the ratio in each round, from the durations of both ways."""
        pairs = list(zip(work, compared_with, strict=True))
        return [own / other if self.kind == "at_most" else other / own for own, other in pairs]

    def row(self, subject: str, ratios: Sequence[float]) -> dict[str, Any]:
        """Return the goal, its figure and quartiles as JSON; ``met`` is None if it was not measured."""
        found: dict[str, Any] = {
            "subject": subject,
            "work": self.work,
            "compared_with": self.compared_with,
            "required": f"{'≤' if self.kind == 'at_most' else '≥'} {self.bound:g}",
            "why_missed": self.why_missed,
            "met": None,
        }
        if not ratios:
            return found
        low, figure, high = statistics.quantiles([*ratios, *ratios], n=4, method="inclusive")
        is_met = figure <= self.bound if self.kind == "at_most" else figure >= self.bound
        return found | {"figure": figure, "quartiles": [low, high], "met": is_met}


#: The ratios of the rounds, by work and what it is compared with.
Ratios = dict[tuple[str, str], list[float]]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a subject measured: the ratios of its goals, and details for the page."""

    ratios: Ratios
    details: Mapping[str, Any] = field(default_factory=dict)


def measure_ratios(
    goals: Iterable[Goal],
    ways: Mapping[str, Callable[[], Any]],
    *,
    quick: bool,
    per_call: Mapping[str, int] | int = 1,
) -> Ratios:
    """Return the ratios of the goals whose two ways are both given.

    Args:
        goals: The goals; those of other ways are skipped.
        ways: The call of each way, by the name that the goals use. They take turns.
        quick: Whether to take fewer rounds.
        per_call: The number of operations in one call, of all ways or by way.
    """
    rounds = take_turns(ways, QUICK_ROUNDS if quick else ROUNDS, per_call)
    return {
        (goal.work, goal.compared_with): goal.ratios(rounds[goal.work], rounds[goal.compared_with])
        for goal in goals
        if goal.work in ways and goal.compared_with in ways
    }


def subjects() -> list[str]:
    """Return the names of the modules that have goals."""
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    return [
        name for name in names if name != "goals" and hasattr(import_module(f"benchmarks.{name}"), "GOALS")
    ]


def measure(name: str, *, quick: bool) -> dict[str, Any]:
    """Measure one subject in this process; return its goals' rows and its details."""
    subject = import_module(f"benchmarks.{name}")
    measured: Measured = subject.measure(quick=quick)
    rows = [
        goal.row(name, measured.ratios.get((goal.work, goal.compared_with), [])) for goal in subject.GOALS
    ]
    return {"goals": rows, "details": measured.details}


def measure_apart(name: str, *, quick: bool) -> dict[str, Any]:
    """Measure one subject in another process, because each sets Django up for servers of its own."""
    command = [sys.executable, "-m", "benchmarks.goals", "--only", name, "--json"]
    done = subprocess.run(
        [*command, *(["--quick"] if quick else [])], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    lines = done.stdout.strip().splitlines()
    if not lines:
        message = f"benchmarks.{name} failed"
        raise RuntimeError(message)
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def show(row: Mapping[str, Any]) -> None:
    """Print a goal, its figure and its quartiles."""
    text = f"{row['subject']:10} {row['work']:32} {row['compared_with']:28}"
    if row["met"] is None:
        print(f"{text} not measured  (required {row['required']})")
        return
    low, high = row["quartiles"]
    spread = f"{row['figure']:10.3f} [{low:.3f} to {high:.3f}]"
    print(f"{text} {spread}  (required {row['required']})  {'met' if row['met'] else 'MISSED'}", flush=True)


def main() -> None:
    """Measure, print, write, and exit with 0 if no goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="SUBJECT", help="measure one subject, and write nothing")
    parser.add_argument(
        "--update",
        nargs="*",
        metavar="SUBJECT",
        help="measure some, and keep the others; none: write the page again",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and nothing is written")
    parser.add_argument("--json", action="store_true", help="print one JSON object of the one subject")
    options = parser.parse_args()
    found = {}
    named = subjects() if options.update is None else options.update
    for name in [options.only] if options.only else named:
        run = measure if options.only else measure_apart
        found[name] = run(name, quick=options.quick)
        if options.json:
            print(json.dumps(found[name]))
        else:
            for row in found[name]["goals"]:
                show(row)
    if not options.only and not options.quick:
        kept = {} if options.update is None else _stored()
        all_found = {name: each for name in subjects() if (each := found.get(name) or kept.get(name))}
        rows = [row for each in all_found.values() for row in each["goals"]]
        details = {name: each["details"] for name, each in all_found.items()}
        write({"machine": machine(), "goals": rows, "details": details}, ROOT)
    sys.exit(any(row["met"] is False for each in found.values() for row in each["goals"]))


def _stored() -> dict[str, dict[str, Any]]:
    """Return what the last run has found, by subject."""
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    goals = {
        (name, goal.work, goal.compared_with): goal
        for name in subjects()
        for goal in import_module(f"benchmarks.{name}").GOALS
    }
    rows = [
        row | {"why_missed": goal.why_missed}  # it may have been explained since
        for row in results["goals"]
        if (goal := goals.get((row["subject"], row["work"], row["compared_with"])))
    ]
    return {
        name: {
            "goals": [row for row in rows if row["subject"] == name],
            "details": results["details"].get(name, {}),
        }
        for name in dict.fromkeys(row["subject"] for row in rows)
    }


if __name__ == "__main__":
    # The module that subjects import, not a second copy of it under the name __main__
    import_module("benchmarks.goals").main()
