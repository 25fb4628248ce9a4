"""The load of a herd on the source: many processes and threads that miss one key at once.

``python -m benchmarks.herd`` prints loads a second of a hot key under continuous invalidation,
with leases and without, side by side (Facebook reports a peak of 17 K/s without and 1.3 K/s with
leases: Nishtala et al., NSDI '13, section 3.2.1).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cacheproject.processes import call_after_setup
from cacheproject.services import Services

PROCESSES, THREADS = 8, 25
KEY, TIMEOUT, STALE_FOR = "hot", 300, 60
#: Seconds that one load of the source takes.
LOAD_SECONDS = 0.02
INVALIDATE_EVERY_SECONDS = 0.01
SECONDS = 5.0
_context = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Herd:
    """The result of one herd.

    Attributes:
        reads: Calls that returned a value.
        loads: Loads of the source.
        waits: Calls that waited for another caller's load.
        seconds: The length of the run.
    """

    reads: int
    loads: int
    waits: int
    seconds: float


def herd(
    how: str, *, invalidations: int | None = None, seconds: float | None = None, stale: bool = False
) -> Herd:
    """Run a herd on one key. Django is set up, and the environment names the services.

    Args:
        how: ``"lease"``: ``get_or_set``; ``"plain"``: get, load and set by hand.
        invalidations: How many times the key is deleted during the reads; if this and ``seconds``
            are None, each thread reads once.
        seconds: Delete the key for this time instead.
        stale: Whether a stale value is cached and may be served.
    """
    from django.core.cache import cache

    cache.clear()
    if stale:
        cache.get_or_set(KEY, "old", TIMEOUT, stale_for=STALE_FOR)  # type: ignore[call-arg]  # RingCache's own
        cache.make_stale(KEY, STALE_FOR)  # type: ignore[attr-defined]  # RingCache's own
    reads, loads, waits = (_context.Value("q", 0) for _ in range(3))
    ready, go, stop = _context.Barrier(PROCESSES + 1), _context.Event(), _context.Event()
    loops = invalidations is not None or seconds is not None
    arguments = ((how, loops, stale), (ready, go, stop), (reads, loads, waits))
    children = [
        _context.Process(
            target=call_after_setup, args=("benchmarks.herd.run_readers", *arguments), daemon=True
        )
        for _ in range(PROCESSES)
    ]
    for child in children:
        child.start()
    ready.wait(120)
    started = time.perf_counter()
    go.set()
    if invalidations is not None:
        for _ in range(invalidations):
            time.sleep(INVALIDATE_EVERY_SECONDS)
            cache.delete(KEY)
    elif seconds is not None:
        while time.perf_counter() - started < seconds:
            time.sleep(INVALIDATE_EVERY_SECONDS)
            cache.delete(KEY)
    stop.set()
    for child in children:
        child.join()
    return Herd(reads.value, loads.value, waits.value, time.perf_counter() - started)


def run_readers(
    manner: tuple[str, bool, bool], signals: tuple[Any, Any, Any], counts: tuple[Any, Any, Any]
) -> None:
    """Read from many threads, in one of the processes."""
    from django.core.cache import caches

    (how, loops, stale), (ready, go, stop), (reads, loads, waits) = manner, signals, counts

    def load() -> str:
        with loads.get_lock():
            loads.value += 1
        time.sleep(LOAD_SECONDS)
        return "value"

    def with_lease(cache: Any) -> None:
        cache.get_or_set(KEY, load, TIMEOUT, **({"stale_for": STALE_FOR} if stale else {}))

    def plain(cache: Any) -> None:
        if cache.get(KEY) is None:
            cache.set(KEY, load(), TIMEOUT)

    read: Callable[[Any], None] = with_lease if how == "lease" else plain

    def run() -> None:
        cache, done = caches["default"], 0
        cache.has_key("warm")
        started.wait()
        go.wait()
        while True:
            read(cache)
            done += 1
            if not loops or stop.is_set():
                break
        with reads.get_lock():
            reads.value += done

    started = threading.Barrier(THREADS + 1)
    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    started.wait()
    ready.wait()
    for thread in threads:
        thread.join()
    with waits.get_lock():
        waits.value += caches["default"].client.counters.total().lease_waits  # type: ignore[attr-defined]  # RingCache's own


def set_up(services: Services) -> None:
    """Set Django up for these services."""
    import django

    os.environ.update(services.env())
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cacheproject.settings")
    django.setup()


def main() -> None:
    """Run both kinds of herd, and print the results side by side."""
    with Services(ring=3, queue=0, postgres=False) as services:
        set_up(services)
        found = {how: herd(how, seconds=SECONDS) for how in ("plain", "lease")}
    rates = {how: each.loads / each.seconds for how, each in found.items()}
    results = {
        how: {"reads": each.reads, "loads": each.loads, "loads_per_second": round(rates[how], 1)}
        for how, each in found.items()
    }
    if "--json" in sys.argv:
        print(json.dumps(results | {"ratio": round(rates["plain"] / rates["lease"], 1)}))
        return
    print(
        f"One hot key, deleted every {INVALIDATE_EVERY_SECONDS * 1e3:g} ms, {PROCESSES} x {THREADS} readers"
    )
    for how, counts in results.items():
        print(f"  {how:6} {counts['loads_per_second']:8,} loads/s  {counts['reads']:9,} reads")
    print(f"  {rates['plain'] / rates['lease']:.1f} times fewer loads with leases")


if __name__ == "__main__":
    main()
