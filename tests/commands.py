"""Runs what operators run: commands of ``manage.py``, and programs of the tests."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from typing import Any

from django.core.management import call_command

from cacheproject.processes import MANAGE

__all__ = ["report_of", "reports_of_program"]


def report_of(name: str, *words: str, code: int | None = 0) -> dict[str, Any]:
    """Run a command with ``--json``; return the object that it prints.

    Args:
        name: The command.
        words: Its other arguments.
        code: The exit code with which it must end; None: with any.
    """
    out, ended = StringIO(), 0
    try:
        call_command(name, *words, "--json", stdout=out, stderr=StringIO())
    except SystemExit as end:
        ended = int(end.code or 0)
    assert code in (None, ended), out.getvalue()
    report: dict[str, Any] = json.loads(out.getvalue().splitlines()[-1])
    return report


def reports_of_program(module: str, *arguments: str, timeout: float) -> list[Any]:
    """Run a module with ``--json`` in a process of its own, which must succeed; return what its lines hold.

    Args:
        module: The module.
        arguments: Its other arguments.
        timeout: The most seconds that it may take.
    """
    finished = subprocess.run(
        [sys.executable, "-m", module, *arguments, "--json"],
        cwd=MANAGE.parent,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return [json.loads(line) for line in finished.stdout.splitlines() if line.startswith(("{", "["))]
