"""A few quick incidents of the game day; `make gameday` plays all of them."""

from __future__ import annotations

import json
import subprocess
import sys

from cacheproject.processes import MANAGE
from tests.gameday.incidents import QUICK


def test_incidents_are_seen_and_say_what_to_do() -> None:
    """Page, metrics, commands and logs agree, the page says what to do, and all is well afterwards."""
    finished = subprocess.run(
        [sys.executable, "-m", "tests.gameday", "--quick", "--json", "--timeout", "2"],
        cwd=MANAGE.parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    outcomes = json.loads(finished.stdout.splitlines()[-1])
    assert {each["name"] for each in outcomes} == set(QUICK)
    assert all(each["way_out"] and each["seen"] is not None for each in outcomes)
