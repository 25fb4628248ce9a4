from __future__ import annotations

import json
import subprocess
import sys

from cacheproject.processes import MANAGE

SECONDS = "5"
MODES = ("--modes", "commit", "strict")


def test_no_read_is_older_than_what_was_acknowledged_before_it() -> None:
    """Writers are killed and nodes meet with accidents; in the default mode it may be, for a moment.

    `make soak` does it for longer.
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
        told = json.loads(line)
        assert told["stale"] == 0 or told["mode"] == "commit"
        assert told["reads"] > 100
        assert told["writes"] > 10
        assert told["kills"] > 1
        assert sum(told["accidents"].values()) > 1
