from __future__ import annotations

import json
import subprocess
import sys

from cacheproject.processes import MANAGE

SECONDS = "5"
MODES = ("--modes", "commit", "strict")


def test_no_read_is_older_than_what_was_acknowledged_before_it() -> None:
    """While writers are killed and nodes fail; in the default mode a stale read is allowed for a moment.

    `make soak` runs longer.
    """
    finished = subprocess.run(
        [sys.executable, "-m", "tests.live.checker", "--seconds", SECONDS, *MODES, "--json"],
        cwd=MANAGE.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    for line in finished.stdout.splitlines():
        report = json.loads(line)
        assert report["stale"] == 0 or report["mode"] == "commit"
        assert report["reads"] > 100
        assert report["writes"] > 10
        assert report["kills"] > 1
        assert sum(report["accidents"].values()) > 1
