"""Processes read and write real rows through a real ring while writers are killed; every read is checked.

In strict mode a node is held still now and then, and goes on with the memory that it had.

``python -m tests.live.checker --seconds 60`` (``make soak``) prints what was read, written and
killed, and exits with 1 if a read returned something older than what was acknowledged before
it began, or if what a killed writer left stood longer than the relay may take.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from typing import Any

from cacheproject.launch import call_after_setup
from cacheproject.services import Services

ROWS, READERS, WRITERS = 12, 2, 2
RELAY_SECONDS = 0.5
#: A writer takes a second or two to start, and should then write for a while.
KILL_EVERY_SECONDS = 2.5
#: Long enough for every process to eject the node, or to be about to.
STOP_SECONDS = 1.0
_context = multiprocessing.get_context("spawn")


@dataclass
class Checked:
    """What came of a run.

    Attributes:
        mode: ``"commit"`` or ``"strict"``.
        reads: Reads that were checked.
        writes: Writes that were acknowledged.
        kills: Writers that were killed by SIGKILL, wherever they were.
        stops: Nodes that were held still by SIGSTOP for a while, and came back with old memory.
        stale: Reads that returned something older than what was acknowledged before them.
        worst_crash_seconds: The longest that what a killed writer left was not what is read.
        bound_seconds: What that may be: two rounds of the relay, and its measured lag.
    """

    mode: str
    reads: int = 0
    writes: int = 0
    kills: int = 0
    stops: int = 0
    stale: int = 0
    worst_crash_seconds: float = 0.0
    bound_seconds: float = 0.0

    @property
    def is_well(self) -> bool:
        """True if nothing stale was read, and crashes were mended in time."""
        return self.reads > 0 and not self.stale and self.worst_crash_seconds <= self.bound_seconds


def check(mode: str, seconds: float, services: Services) -> Checked:
    """Run readers, writers, a relay and a killer for so long. Django is set up, the tables are made."""
    from django.db import connections

    from cacheproject.demo.models import Article

    strict = mode == "strict"
    Article.objects.filter(slug__startswith="live-").delete()
    made = Article.objects.bulk_create([Article(slug=f"live-{n}", title="x") for n in range(ROWS)])
    keys = [number * 1_000_000 + article.pk for number, article in enumerate(made)]
    acknowledged = _context.Array("q", ROWS, lock=False)
    counts = [_context.Value("q", 0) for _ in range(3)]
    reads, writes, stale = counts
    lag = _context.Value("d", 0.0)
    checked = Checked(mode)
    writers: list[BaseProcess] = []
    others: list[BaseProcess] = []
    try:
        shares = [keys[share::WRITERS] for share in range(WRITERS)]
        writers += [_spawn("write", share, acknowledged, writes, strict) for share in shares]
        others += [_spawn("read", keys, acknowledged, reads, stale, strict) for _ in range(READERS)]
        others.append(_spawn("relay", RELAY_SECONDS, lag))
        while not (reads.value and writes.value):
            _stop_if_dead(writers + others)
            time.sleep(0.05)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(KILL_EVERY_SECONDS)
            _stop_if_dead(others)
            share = checked.kills % WRITERS
            writers[share].kill()
            writers[share].join()
            checked.kills += 1
            left = _seconds_until_mended(keys[share::WRITERS])
            checked.worst_crash_seconds = max(checked.worst_crash_seconds, left)
            writers[share] = _spawn("write", keys[share::WRITERS], acknowledged, writes, strict)
            if strict:
                name = f"ring-{'abc'[checked.stops % 3]}"
                services.stop(name)
                time.sleep(STOP_SECONDS)
                services.resume(name)
                checked.stops += 1
    finally:
        for process in writers + others:
            process.kill()
            process.join()
        connections.close_all()
    checked.reads, checked.writes, checked.stale = reads.value, writes.value, stale.value
    from cachebackend.invalidation.relay import SETTLING_SECONDS

    checked.bound_seconds = SETTLING_SECONDS + 2 * RELAY_SECONDS + lag.value
    return checked


def _seconds_until_mended(keys: list[int]) -> float:
    """Return how long it takes until the rows of a killed writer are read as the database has them."""
    from cacheproject.demo.models import Article

    begun = time.monotonic()
    pks = [key % 1_000_000 for key in keys]
    while True:
        stored = dict(Article.objects.filter(pk__in=pks).values_list("pk", "views"))
        if {pk: row.views for pk, row in Article.cached.in_bulk(pks).items()} == stored:
            return time.monotonic() - begun
        time.sleep(0.01)


def _spawn(name: str, *arguments: Any) -> BaseProcess:
    process = _context.Process(
        target=call_after_setup, args=(f"tests.live.actors.{name}", *arguments), daemon=True
    )
    process.start()
    return process


def _stop_if_dead(processes: list[BaseProcess]) -> None:
    for process in processes:
        if not process.is_alive():
            message = f"a process of the checker ended by itself ({process.exitcode})"
            raise RuntimeError(message)


def main() -> None:
    """Check both modes, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="how long each mode is checked (default: 30)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a mode")
    options = parser.parse_args()
    with Services(ring=3, queue=1) as services:
        os.environ.update(services.env())
        os.environ["DJANGO_SETTINGS_MODULE"] = "cacheproject.settings"
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0, interactive=False)
        found = [check(mode, options.seconds, services) for mode in ("commit", "strict")]
    for checked in found:
        told = asdict(checked)
        print(
            json.dumps(told) if options.json else "  ".join(f"{name} {value}" for name, value in told.items())
        )
    sys.exit(not all(checked.is_well for checked in found))


if __name__ == "__main__":
    main()
