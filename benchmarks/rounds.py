"""Rounds that take turns, so that what else the machine does falls on all alike."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Taken", "another_core", "one_core", "take_turns"]

#: Seconds that one way has in one round, about.
ROUND_SECONDS = 0.02
MOST_CALLS = 20_000


@dataclass(frozen=True, slots=True)
class Taken:
    """Microseconds a call: the median of the rounds, and the quartiles around it."""

    median: float
    low: float
    high: float


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process and the servers that it starts on one core: who wakes whom is not left to chance."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def another_core() -> Iterator[bool]:
    """Move this process away from the servers that it started on one core; yield whether there is another."""
    before = os.sched_getaffinity(0)
    others = set(range(os.cpu_count() or 1)) - before
    try:
        if others:
            os.sched_setaffinity(0, {max(others)})
        yield bool(others)
    finally:
        os.sched_setaffinity(0, before)


def take_turns(ways: Mapping[str, Callable[[], Any]], rounds: int, per_call: int = 1) -> dict[str, Taken]:
    """Return what a call takes, by way.

    Args:
        ways: What each way does once.
        rounds: How often each has its turn.
        per_call: How many operations one call is.
    """
    calls = {way: _calls(run) for way, run in ways.items()}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            begun = time.perf_counter()
            for _ in range(calls[way]):
                run()
            taken[way].append((time.perf_counter() - begun) / calls[way] / per_call * 1e6)
    found = {}
    for way, each in taken.items():
        low, median, high = statistics.quantiles(each, n=4, method="inclusive")
        found[way] = Taken(round(median, 2), round(low, 2), round(high, 2))
    return found


def _calls(run: Callable[[], Any]) -> int:
    """Return how many calls fill a round; warms up by the way."""
    run()
    begun = time.perf_counter()
    for _ in range(3):
        run()
    return max(1, min(MOST_CALLS, int(ROUND_SECONDS * 3 / (time.perf_counter() - begun))))
