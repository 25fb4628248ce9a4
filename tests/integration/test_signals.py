"""Signal handlers that raise: Ctrl-C, Celery's soft time limit, the abort of a server's worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from cachebackend.backend import RingCache
from tests.integration import interrupted_calls

#: How often each kind of call is interrupted: about three seconds for all of them.
ROUNDS = 100


@pytest.mark.postgres  # one of the calls is a write by write-behind
def test_a_handler_that_raises_neither_crashes_nor_mixes_replies(ring_cache: RingCache) -> None:
    """Its exception reaches the caller from any place, and the next call gets its own reply."""
    command = [sys.executable, "-X", "faulthandler", "-m", interrupted_calls.__name__, str(ROUNDS)]
    ended = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report.pop("interrupted") > 3 * ROUNDS
    assert report == {"swallowed": [], "wrong": [], "ejected": []}
