"""Rounds that take turns, so that other processes of the machine slow all contenders alike."""

from __future__ import annotations

import math
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Timing", "another_core", "one_core", "take_turns"]

#: The approximate seconds of one contender in one round: short, so that most rounds have the core alone.
ROUND_SECONDS = 0.004
MAX_CALLS = 20_000
_TRIALS = 5


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds a call: the median of the rounds, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, rounds: Sequence[float]) -> Timing:
        """Return the timing of rounds, given in microseconds a call."""
        low, median, high = statistics.quantiles(rounds, n=4, method="inclusive")
        return cls(round(median, 2), round(low, 2), round(high, 2))


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process and the servers that it starts on one core, so that the scheduler has no choice."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def another_core() -> Iterator[bool]:
    """Move this process to another core than its servers; yield whether there is another core."""
    before = os.sched_getaffinity(0)
    others = set(range(os.cpu_count() or 1)) - before
    try:
        if others:
            os.sched_setaffinity(0, {max(others)})
        yield bool(others)
    finally:
        os.sched_setaffinity(0, before)


def take_turns(
    ways: Mapping[str, Callable[[], Any]], rounds: int, per_call: Mapping[str, int] | int = 1
) -> dict[str, list[float]]:
    """Return the microseconds of an operation in each round, for each contender.

    Each round has another order: the first calls are slower after those of a contender that needs other code
    and servers, because the CPU's caches hold what the last one used.

    Args:
        ways: The call of each contender, by name.
        rounds: The number of rounds of each contender.
        per_call: The number of operations in one call, of all contenders or by name.
    """
    calls = {way: _calls(run) for way, run in ways.items()}
    measured: dict[str, list[float]] = {way: [] for way in ways}
    generator, order = random.Random(0), list(ways)
    for _ in range(rounds):
        generator.shuffle(order)
        for way in order:
            run = ways[way]
            operations = calls[way] * (per_call if isinstance(per_call, int) else per_call.get(way, 1))
            started = time.perf_counter()
            for _ in range(calls[way]):
                run()
            measured[way].append((time.perf_counter() - started) / operations * 1e6)
    return measured


def _calls(run: Callable[[], Any]) -> int:
    """Return the number of calls that fill a round; this also warms up.

    The fastest of some trials counts: a number that a slow first trial gives would make each round so short
    that its first calls, which are slower, decide.
    """
    fastest = math.inf
    for _ in range(_TRIALS):
        calls, started, seconds = 0, time.perf_counter(), 0.0
        while seconds < ROUND_SECONDS:
            run()
            calls, seconds = calls + 1, time.perf_counter() - started
        fastest = min(fastest, seconds / calls)
    return max(1, min(MAX_CALLS, int(ROUND_SECONDS / fastest)))
