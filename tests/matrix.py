"""Runs tests in every environment that this machine has or can install, and writes the results.

``make matrix``: one cell after another, each with its own servers. A Python other than the one that
runs this gets an environment under ``.cache``, from ``requirements.lock``, which names the Django for it;
so do the lowest versions that ``pyproject.toml`` allows. What is not installed, and cannot be installed
from a registry, is left out, and the page lists it. ``make matrix ONLY=redis`` runs the cells whose name
contains the word, and leaves the results of the others as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

from cachebackend.testing.embedded import valkey_server
from cacheproject.binaries import postgres_folder
from tests.matrix_software import (
    ROOT,
    first_line,
    interpreter,
    lowest_interpreter,
    mariadb_version,
    node_servers,
    node_version,
    postgres_folders,
    postgres_version,
    pymysql_folder,
    versions,
)
from tests.pgbouncer import pgbouncer_binary

PAGE = ROOT / "docs" / "matrix.md"
#: The outcome of each cell's last run, by the cell's name.
RESULTS = ROOT / "docs" / "matrix.json"
_COLUMNS = (
    "Python",
    "Django",
    "ring nodes",
    "database",
    "passed",
    "failed",
    "skipped",
    "Django's own cache tests",
    "run on",
)
#: How many processes run a cell's tests side by side, each on services of its own.
WORKERS = os.environ.get("WORKERS", "2")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
#: Tests of code that may differ between Pythons and Djangos: all except those of the protocol itself.
LIBRARY = (
    "tests/unit",
    "tests/properties",
    "tests/integration",
    "tests/differential",
    "tests/project/test_wheel.py",
)
#: Tests of code that may differ between servers, such as how a record is replaced.
NODES = ("tests/integration", "tests/interleavings")
DATABASES = ("tests/integration",)
#: Files of which every test needs Postgres; a single test that needs it has a marker.
POSTGRES_ONLY = ("*writebehind*", "*queue*", "*test_triggers*", "*test_large_batches.py")
#: A pool and a pooler keep the test database open, so it cannot be dropped. The tests of poolers start one.
POOLED = (*DATABASES, "--ignore=tests/integration/test_poolers.py", "--reuse-db")
WITHOUT_POSTGRES = (*DATABASES, *(f"--ignore-glob={name}" for name in POSTGRES_ONLY))


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of versions, and the tests that run on it.

    Attributes:
        python: The interpreter.
        nodes: The name and version of the ring's nodes.
        database: The name and version of the database.
        arguments: The arguments of pytest.
        environment: The environment variables that name the servers.
        conforms: Whether Django's own cache tests run, too.
    """

    python: Path
    nodes: str
    database: str
    arguments: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)
    conforms: bool = True

    @property
    def name(self) -> str:
        """The versions of Python, Django, nodes and database in one line."""
        return f"{versions(self.python)} | {self.nodes} | {self.database}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a cell.

    Attributes:
        passed: The number of tests that passed.
        failed: The tests that failed.
        skipped: How many tests were skipped, by reason.
        conformance: The result of Django's own cache tests.
        date: The day of the run.
    """

    passed: int
    failed: Sequence[str]
    skipped: Mapping[str, int]
    conformance: str
    date: str


def cells(left_out: list[str]) -> Iterator[Cell]:
    """Yield the cells of the installed versions, and add the others to ``left_out``."""
    ours = Path(sys.executable)
    valkey, postgres = node_version(valkey_server()), postgres_version(postgres_folder())
    for version in PYTHONS:
        python = interpreter(version)
        if python is None:
            left_out.append(f"Python {version}: not installed")
        else:
            yield Cell(python, valkey, postgres, LIBRARY)
    yield Cell(lowest_interpreter(), valkey, f"{postgres}; lowest versions of everything", LIBRARY)
    for server in node_servers(left_out):
        if (version := node_version(server)) != valkey:
            environment = {"RING_SERVER": str(server)}
            if _can_queue(version):
                environment["VALKEY_SERVER"] = str(server)
            yield Cell(ours, version, postgres, NODES, environment)
    yield Cell(ours, f"a cluster of {valkey}", postgres, DATABASES, {"RING": "cluster"})
    for folder in postgres_folders(left_out):
        if (version := postgres_version(folder)) != postgres:
            yield Cell(ours, valkey, version, DATABASES, {"POSTGRES_BIN": str(folder)}, conforms=False)
    if pgbouncer_binary() is None:
        left_out.append("pgbouncer: not installed")
    else:
        yield Cell(ours, valkey, f"{postgres} behind pgbouncer", POOLED, {"PGBOUNCER": "1"}, conforms=False)
    yield Cell(ours, valkey, f"{postgres} with a pool", POOLED, {"DATABASE_POOL": "1"}, conforms=False)
    prepared = f"{postgres} with prepared statements"
    yield Cell(ours, valkey, prepared, DATABASES, {"PREPARED": "1"}, conforms=False)
    lite = first_line(ours, "-c", "import sqlite3; print(f'SQLite {sqlite3.sqlite_version}')")
    yield Cell(ours, valkey, lite, WITHOUT_POSTGRES, {"DATABASE_URL": "sqlite://:memory:"}, conforms=False)
    if version := mariadb_version(left_out):
        environment = {"MARIADB": "1", "PYTHONPATH": str(pymysql_folder())}
        yield Cell(ours, valkey, version, WITHOUT_POSTGRES, environment, conforms=False)


def _can_queue(version: str) -> bool:
    """Return whether a server can be a queue node: it has WAITAOF, since Redis 7.2."""
    name, _, number = version.partition(" ")
    return name == "Valkey" or tuple(map(int, number.split(".")[:2])) >= (7, 2)


def run(cell: Cell) -> Outcome:
    """Run a cell's tests."""
    environment = os.environ | cell.environment
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [cell.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        words += ["-n", WORKERS, "--dist", "worksteal"]
        subprocess.run([*words, *cell.arguments], cwd=ROOT, env=environment, check=False)
        tests = list(ElementTree.parse(report).iter("testcase"))
    failed = [
        f"{test.get('classname')}::{test.get('name')}"
        for test in tests
        if test.find("failure") is not None or test.find("error") is not None
    ]
    skips = [each.get("message", "") for test in tests for each in test.iter("skipped")]
    conformance = "not run"
    if cell.conforms:
        completed = subprocess.run(
            [cell.python, "-m", "tests.conformance"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        conformance = completed.stdout.strip().rpartition("\n")[2].partition(": ")[2]
        failed += ["tests.conformance"] * bool(completed.returncode)
    today = datetime.now(UTC).date().isoformat()
    return Outcome(len(tests) - len(failed) - len(skips), failed, dict(Counter(skips)), conformance, today)


def page(outcomes: Mapping[str, Outcome], left_out: Sequence[str]) -> str:
    """Return the page as Markdown.

    Args:
        outcomes: The outcome of each cell, by the cell's name.
        left_out: What is not installed.
    """
    lines = [
        "# What it is tested on",
        "",
        "Written by `make matrix`, which runs one cell after another on what is installed.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, outcome in outcomes.items():
        versions_of = name.replace("Python ", "").replace("Django ", "")
        counts = f"{outcome.passed} | {len(outcome.failed)} | {sum(outcome.skipped.values())}"
        lines.append(f"| {versions_of} | {counts} | {outcome.conformance} | {outcome.date} |")
    lines += [
        "",
        "Each Python runs " + ", ".join(f"`{each}`" for each in LIBRARY) + ";",
        "other nodes run " + " and ".join(f"`{each}`" for each in NODES) + ", and are the queue",
        "nodes and the broker, too, if they are Valkey or at least Redis 7.2; a cluster of three primaries",
        "and three replicas, another Postgres, a pool and pgbouncer (in transaction mode) run",
        "`tests/integration`, and so do SQLite and MariaDB (by PyMySQL),",
        "except for write-behind and triggers, which need Postgres. All other tests exercise code that does",
        "not depend on any of these; `make test` runs them. What each environment needs, and what does not",
        "work there: [production](production.md#what-is-supported).",
        "",
    ]
    reasons: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        for reason, count in outcome.skipped.items():
            reasons.setdefault(reason, []).append(f"{count} on {name}")
    lines += [f"- skipped: {reason} ({'; '.join(where)})" for reason, where in sorted(reasons.items())]
    lines += [f"- failed: `{test}` on {name}" for name, each in outcomes.items() for test in each.failed]
    lines += [f"- left out: {each}" for each in left_out]
    return "\n".join([*lines, ""])


def main() -> None:
    """Run the cells; exit with 0 if all tests pass."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.matrix", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--only",
        default="",
        help="run the cells whose name contains this, and keep the results of the others",
    )
    only = parser.parse_args().only
    left_out: list[str] = []
    found = {cell.name: cell for cell in cells(left_out)}
    chosen = [name for name in found if only.lower() in name.lower()]
    if not chosen:
        parser.error(f"no cell has {only!r} in its name; there are:\n" + "\n".join(found))
    outcomes = {name: each for name, each in _stored().items() if name in found}
    for name in chosen:
        print(f"== {name}", flush=True)
        outcomes[name] = run(found[name])
        done = {each: outcomes[each] for each in found if each in outcomes}
        missing = [f"{each}: not run yet" for each in found if each not in done]
        RESULTS.write_text(json.dumps({each: asdict(done[each]) for each in done}, indent=1) + "\n")
        PAGE.write_text(page(done, [*left_out, *missing]))
    print(PAGE.read_text())
    sys.exit(any(outcomes[name].failed for name in chosen))


def _stored() -> dict[str, Outcome]:
    """Return the outcomes of earlier runs, by the names of their cells."""
    if not RESULTS.exists():
        return {}
    return {name: Outcome(**each) for name, each in json.loads(RESULTS.read_text()).items()}


if __name__ == "__main__":
    main()
