"""Write-behind while things change around it, for a few faults; `make soak` runs more."""

from __future__ import annotations

import json
import subprocess
import sys

from cacheproject.processes import MANAGE

#: One of each family, so that the test takes half a minute.
FAULTS = "change_type,replace_nodes,change_partitions,restore_file,kill_node"


def test_nothing_is_lost_or_doubled_while_things_change() -> None:
    """Types, nodes and partitions change under load; of a file that came back, exactly the rest is lost."""
    command = [sys.executable, "-m", "tests.live.change_checker", "--faults", "5", "--only", FAULTS]
    finished = subprocess.run(
        command, cwd=MANAGE.parent, capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    report = json.loads(finished.stdout.splitlines()[-1])
    assert (report["faults"], report["wrong"], report["wrong_reads"]) == (5, [], 0)
    assert report["acknowledged"] > 0
    assert min(report["kills"]["writer"], report["kills"]["drainer"]) > 0
