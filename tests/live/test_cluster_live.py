"""A cluster whose slots and primaries move, for a few seconds; `make soak` runs longer."""

from __future__ import annotations

import json
import subprocess
import sys

from cacheproject.processes import MANAGE

MODES = ("--modes", "strict", "commit")


def test_no_read_from_a_cluster_is_older_than_what_was_acknowledged_before_it() -> None:
    """While slots move, and primaries are killed, suspended and replaced; deletes wait for a replica."""
    finished = subprocess.run(
        [sys.executable, "-m", "tests.live.checker", "--cluster", "--seconds", "5", *MODES, "--json"],
        cwd=MANAGE.parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    for report in map(json.loads, finished.stdout.splitlines()):
        assert report["stale"] == 0 or report["mode"] == "commit"
        assert report["reads"] > 100
        assert report["writes"] > 10
        assert sum(report["accidents"].values()) > 0
