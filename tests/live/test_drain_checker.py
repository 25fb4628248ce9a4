"""Write-behind under kills, for a few seconds; `make soak` does it for longer."""

from __future__ import annotations

import json
import subprocess
import sys

from cacheproject.processes import MANAGE


def test_nothing_acknowledged_is_lost_and_nothing_lands_twice() -> None:
    """Whatever is killed: writers, workers at each step of a drain, the queue node, Postgres."""
    finished = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.live.drain_checker",
            "--seconds",
            "6",
            "--writers",
            "2",
            "--readers",
            "1",
            "--json",
        ],
        cwd=MANAGE.parent,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    told = json.loads(finished.stdout.splitlines()[-1])
    figures = ("lost", "doubled", "out_of_order", "parked", "wrong_reads")
    assert {name: told[name] for name in figures} == dict.fromkeys(figures, 0)
    assert min(told["acknowledged"], told["reads"]) > 100
    assert min(told["kills"]["writers"], told["kills"]["workers"]) >= 10
    assert min(told["kills"]["queue-a"], told["kills"]["postgres"]) >= 1
    assert told["stopped"] == 8 * told["older_files"] > 0
