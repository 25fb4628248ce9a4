"""Runs tests on every Python, Django and server that is installed, and writes the results.

``make matrix``: one cell after another, each with its own servers. A Python other than
the one that runs this gets an environment under ``.cache``, from ``requirements.lock``, which names the
Django for it. Versions that are not installed are left out, and the page lists them.
``make matrix ONLY=redis`` runs the cells whose name contains the word, and writes nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from cachebackend.testing.embedded import valkey_server
from cacheproject.binaries import postgres_folder

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".cache" / "matrix"
PAGE = ROOT / "docs" / "matrix.md"
PYTHONS = ("3.11", "3.12", "3.13")
#: Tests of code that may differ between Pythons and Djangos: all except those of the protocol itself.
LIBRARY = ("tests/unit", "tests/properties", "tests/integration", "tests/project/test_wheel.py")
#: Tests of code that may differ between servers, such as how a record is replaced.
NODES = ("tests/integration", "tests/interleavings")
DATABASES = ("tests/integration",)
#: Files of which every test needs Postgres; a single test that needs it has a marker.
POSTGRES_ONLY = ("*writebehind*", "*queue*", "*test_triggers.py", "*test_large_batches.py")
SQLITE = (*DATABASES, *(f"--ignore-glob={name}" for name in POSTGRES_ONLY))


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
    """The result of a cell: the number of passed tests, the failed tests, and the reasons of skipped ones."""

    passed: int
    failed: Sequence[str]
    skipped: Counter[str]
    conformance: str


def first_line(*words: str | Path) -> str:
    """Return the first line that a program prints; an empty string if it cannot be run."""
    try:
        completed = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return completed.stdout.partition("\n")[0] if completed.returncode == 0 else ""


def versions(python: Path) -> str:
    """Return the versions of an interpreter and of its Django."""
    script = (
        "import platform, django; print(f'Python {platform.python_version()} | Django {django.__version__}')"
    )
    return first_line(python, "-c", script)


def node_version(server: Path) -> str:
    """Return the name and version of a node's server, such as ``Valkey 9.1.2``."""
    match = re.search(r"(\w+) server v=([\d.]+)", first_line(server, "--version"))
    return f"{match[1].capitalize()} {match[2]}" if match else ""


def postgres_version(folder: Path) -> str:
    """Return the version of a Postgres, such as ``Postgres 18.6``."""
    match = re.search(r"\d+(\.\d+)?", first_line(folder / "postgres", "-V"))
    return f"Postgres {match[0]}" if match else ""


def interpreter(version: str) -> Path | None:
    """Return the interpreter to test with, in an environment made for it; None if it is not installed."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return Path(sys.executable)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [f"python{version}", *pyenv.glob(f"versions/{version}.*/bin/python")]
    base = next(
        (each for each in candidates if first_line(each, "-V").startswith(f"Python {version}.")), None
    )
    if base is None:
        return None
    environment = ENVIRONMENTS / f"python{version}"
    python, made = environment / "bin" / "python", environment / ".made"
    locked = hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    if not made.exists() or made.read_text() != locked:
        print(f"Making {environment.relative_to(ROOT)}", file=sys.stderr)
        shutil.rmtree(environment, ignore_errors=True)
        subprocess.run([base, "-m", "venv", environment], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        subprocess.run([*pip, "-r", ROOT / "requirements.lock"], check=True, stderr=subprocess.DEVNULL)
        made.write_text(locked)
    return python


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
    redis = shutil.which("redis-server")
    if redis is None or not node_version(Path(redis)).startswith("Redis"):
        left_out.append("Redis: no `redis-server` on the path")
    else:
        yield Cell(ours, node_version(Path(redis)), postgres, NODES, {"RING_SERVER": redis})
    other_postgres = [
        folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if postgres_version(folder)
    ]
    if not other_postgres:
        left_out.append("another Postgres: none under `/usr/lib/postgresql`")
    for folder in sorted(other_postgres):
        environment = {"POSTGRES_BIN": str(folder)}
        yield Cell(ours, valkey, postgres_version(folder), DATABASES, environment, conforms=False)
    lite = first_line(ours, "-c", "import sqlite3; print(f'SQLite {sqlite3.sqlite_version}')")
    yield Cell(ours, valkey, lite, SQLITE, {"DATABASE_URL": "sqlite://:memory:"}, conforms=False)


def run(cell: Cell) -> Outcome:
    """Run a cell's tests."""
    environment = os.environ | cell.environment
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [cell.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
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
    return Outcome(len(tests) - len(failed) - len(skips), failed, Counter(skips), conformance)


def page(outcomes: Sequence[tuple[Cell, Outcome]], left_out: Sequence[str]) -> str:
    """Return the page as Markdown."""
    lines = [
        "# What it is tested on",
        "",
        "Written by `make matrix`, which runs one cell after another on what is installed.",
        "",
        "| Python | Django | ring nodes | database | passed | failed | skipped | Django's own cache tests |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell, outcome in outcomes:
        name = cell.name.replace("Python ", "").replace("Django ", "")
        counts = f"{outcome.passed} | {len(outcome.failed)} | {outcome.skipped.total()}"
        lines.append(f"| {name} | {counts} | {outcome.conformance} |")
    lines += [
        "",
        "Each Python runs " + ", ".join(f"`{each}`" for each in LIBRARY) + ";",
        "other nodes run " + " and ".join(f"`{each}`" for each in NODES) + ", the queue nodes and the broker",
        "staying the same; another Postgres runs `tests/integration`, and so does SQLite, except for",
        "write-behind and triggers, which need Postgres. All other tests exercise code that does not depend",
        "on any of these; `make test` runs them.",
        "",
    ]
    reasons: dict[str, list[str]] = {}
    for cell, outcome in outcomes:
        for reason, count in outcome.skipped.items():
            reasons.setdefault(reason, []).append(f"{count} on {cell.nodes}, {cell.database}")
    lines += [f"- skipped: {reason} ({'; '.join(where)})" for reason, where in sorted(reasons.items())]
    lines += [
        f"- failed: `{name}` on {cell.nodes}, {cell.database}" for cell, o in outcomes for name in o.failed
    ]
    lines += [f"- left out: {each}" for each in left_out]
    return "\n".join([*lines, ""])


def main() -> None:
    """Run the cells; exit with 0 if all tests pass."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.matrix", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--only", default="", help="run the cells whose name contains this, and write nothing"
    )
    only = parser.parse_args().only
    left_out: list[str] = []
    outcomes = []
    for cell in cells(left_out):
        if only.lower() in cell.name.lower():
            print(f"== {cell.name}", flush=True)
            outcomes.append((cell, run(cell)))
    text = page(outcomes, left_out)
    print(text)
    if not only:
        PAGE.write_text(text)
    sys.exit(not outcomes or any(outcome.failed for _, outcome in outcomes))


if __name__ == "__main__":
    main()
