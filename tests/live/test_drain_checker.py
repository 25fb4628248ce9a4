"""Write-behind under kills, for a few seconds; `make soak` runs longer."""

from __future__ import annotations

import json
import subprocess
import sys

from cacheproject.processes import MANAGE


def test_nothing_acknowledged_is_lost_and_nothing_is_applied_twice() -> None:
    """Writers are killed, workers at each step of a drain, the queue node, and Postgres."""
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
    report = json.loads(finished.stdout.splitlines()[-1])
    counts = ("lost", "doubled", "out_of_order", "parked", "wrong_reads")
    assert {name: report[name] for name in counts} == dict.fromkeys(counts, 0)
    assert min(report["acknowledged"], report["reads"]) > 100
    assert min(report["kills"]["writers"], report["kills"]["workers"]) >= 10
    assert min(report["kills"]["queue-a"], report["kills"]["postgres"]) >= 1
    assert report["stopped"] == 8 * report["older_files"] > 0
