"""A ring grows from three nodes to four and shrinks again while processes read and write through it.

``python -m tests.live.ring_growth`` (``make soak``) makes the four deploys of each change (see
docs/failures.md), one process after another, so that processes of two adjacent deploys always
run side by side. It exits with 1 if any read returned something older than what was
acknowledged before it began.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from cacheproject.services import Services
from tests.live.ledger import Ledger
from tests.live.spawning import set_up, spawn, stop_if_dead

ROWS, READERS, WRITERS, RELAY_SECONDS = 200, 2, 2, 0.5
#: Reads and writes between the replacements of two processes.
READS, WRITES = 200, 20


def deploys(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the name and the environment variables of each deploy of a change."""
    for name, nodes, options in (
        ("joining", old, {"joining": new}),
        ("leaving", new, {"leaving": old}),
        ("leaving, not warm", new, {"leaving": old, "warm": False}),
        ("done", new, {}),
    ):
        yield name, {"RING_NODES": ",".join(nodes), "RING_OPTIONS": json.dumps(options)}


class Site:
    """The processes of the site; each deploy replaces them one after another."""

    def __init__(self, keys: list[int], environment: dict[str, str]) -> None:
        self.ledger = Ledger(len(keys), READERS)
        shares = [keys[share::WRITERS] for share in range(WRITERS)]
        self._roles: list[tuple[Any, ...]] = [("write", share, self.ledger, False) for share in shares]
        self._roles += [("read", me, keys, self.ledger, False) for me in range(READERS)]
        self._roles.append(("relay", RELAY_SECONDS, self.ledger))
        self._processes = [self._start(role, environment) for role in self._roles]

    def deploy(self, environment: dict[str, str]) -> None:
        """Replace one process after another; each reads and writes before the next is replaced."""
        for index, role in enumerate(self._roles):
            self._processes[index].kill()
            self._processes[index].join()
            self._processes[index] = self._start(role, environment)
            self.wait_for_work()

    def wait_for_work(self) -> None:
        """Return when all processes together have read and written some more."""
        reads, writes = self.ledger.reads + READS, self.ledger.writes + WRITES
        while self.ledger.reads < reads or self.ledger.writes < writes:
            stop_if_dead(self._processes)
            time.sleep(0.02)

    def end(self) -> None:
        """Kill all processes."""
        for process in self._processes:
            process.kill()
            process.join()

    @staticmethod
    def _start(role: tuple[Any, ...], environment: dict[str, str]) -> BaseProcess:
        name, *arguments = role
        return spawn(f"tests.live.actors.{name}", *arguments, **environment)


def change(services: Services, report_line: Any = print) -> Ledger:
    """Grow the ring and shrink it again; return the ledger of reads and writes. Django must be set up."""
    from django.db import connections

    from tests.live.actors import make_rows

    four = services.ring_urls
    three = four[:3]
    keys = make_rows(ROWS)
    connections.close_all()
    site = Site(keys, {"RING_NODES": ",".join(three), "RING_OPTIONS": "{}"})
    try:
        site.wait_for_work()
        for title, old, new in (("three to four", three, four), ("four to three", four, three)):
            for name, environment in deploys(old, new):
                site.deploy(environment)
                ledger = site.ledger
                report_line(f"{title}, {name}: {ledger.reads} reads, {sum(ledger.stale)} stale")
    finally:
        site.end()
    return site.ledger


def main() -> None:
    """Make both changes, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    with Services(ring=4, queue=0) as services:
        set_up(services)
        ledger = change(services, lambda line: print(line, file=sys.stderr if options.json else sys.stdout))
    report = {"reads": ledger.reads, "writes": ledger.writes, "stale": sum(ledger.stale)}
    print(
        json.dumps(report) if options.json else "  ".join(f"{name} {value}" for name, value in report.items())
    )
    sys.exit(bool(report["stale"]) or not report["reads"])


if __name__ == "__main__":
    main()
