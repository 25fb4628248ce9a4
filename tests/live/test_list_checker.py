"""Lists under kills, for a few seconds; `make soak` runs longer."""

from __future__ import annotations

import json
import subprocess
import sys

from cacheproject.processes import MANAGE

MODES = ("--modes", "calm", "broken")


def test_no_list_is_older_than_what_was_acknowledged_before_it() -> None:
    """Nor a count or an aggregate; while nodes and writers fail, one may be for a moment."""
    finished = subprocess.run(
        [sys.executable, "-m", "tests.live.list_checker", "--seconds", "5", *MODES, "--json"],
        cwd=MANAGE.parent,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    calm, broken = map(json.loads, finished.stdout.splitlines())
    assert calm["stale"] == calm["uncommitted"] == broken["uncommitted"] == 0
    for report in (calm, broken):
        assert report["reads"] > 100
        assert report["hits"] > 10
        assert report["writes"] > 10
    assert broken["kills"] > 1
    assert sum(broken["accidents"].values()) > 1
