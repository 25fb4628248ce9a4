"""The drains that run in this process, and the databases that it waits for: both are part of its report."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from cachebackend.protocol.queue import Partition
from cachebackend.telemetry import this_process
from cachebackend.writebehind.backoff import database_backoff

__all__ = ["running"]

_numbers = count()
_running: dict[int, tuple[str, float]] = {}


@contextmanager
def running(partition: Partition) -> Iterator[None]:
    """Report for the time of the block that a drain of a partition runs."""
    number = next(_numbers)
    _running[number] = (str(partition), time.time())
    try:
        yield
    finally:
        _running.pop(number, None)


this_process.add_facts("drains", lambda: list(_running.values()))
this_process.add_facts("waits", database_backoff.waits)
os.register_at_fork(after_in_child=_running.clear)
