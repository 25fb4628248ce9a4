"""Processes read and write real rows through a real ring while it is broken; every read is checked.

Writers are killed. Nodes are held still and go on with the memory that they had, are killed and
come back empty, and are cut off from the writers alone, in one direction or the other; so
processes differ in what they think of a node.

``python -m tests.live.checker --seconds 60`` (``make soak``) prints what was read, written and
broken. It exits with 1 if, in strict mode, a read returned something older than what was
acknowledged before it began; in the default mode, if one did longer after than the relay may
take to tell a node that is back; or if what a killed writer left stood longer than that.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import time
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from urllib.parse import urlsplit

from cacheproject.services import Services
from tests.live.ledger import Ledger
from tests.live.proxy import Proxy
from tests.live.spawning import set_up, spawn, stop_if_dead

ROWS, READERS, WRITERS = 12, 2, 2
RELAY_SECONDS = 0.5
#: A writer takes a second or two to start, and should then write for a while.
KILL_EVERY_SECONDS = 2.5
#: Long enough for every process to eject the node, or to be about to.
STOP_SECONDS = 1.0
#: The longest wait between two probes of a node that was away for so long.
PROBE_SECONDS = 2.0


@dataclass
class Checked:
    """What came of a run.

    Attributes:
        mode: ``"commit"`` or ``"strict"``.
        reads: Reads that were checked.
        writes: Writes that were acknowledged.
        kills: Writers that were killed by SIGKILL, wherever they were.
        accidents: What nodes met with, by kind.
        stale: Reads that returned something older than what was acknowledged before them.
        worst_stale_seconds: The longest that such a read came after the acknowledgement, and
            after the node was back.
        worst_crash_seconds: The longest that what a killed writer left was not what is read.
        lag_seconds: The age of the oldest delete that the relay was still owing.
        bound_seconds: What both may be: two rounds of the relay, after it has let the writer have
            the first try, and the wait for a node's next probe.
    """

    mode: str
    reads: int = 0
    writes: int = 0
    kills: int = 0
    accidents: dict[str, int] = field(default_factory=dict)
    stale: int = 0
    worst_stale_seconds: float = 0.0
    worst_crash_seconds: float = 0.0
    lag_seconds: float = 0.0
    bound_seconds: float = 0.0

    @property
    def is_well(self) -> bool:
        """True if nothing stale was read, and crashes were mended in time."""
        if not self.reads or (self.stale and self.mode == "strict"):
            return False
        return max(self.worst_crash_seconds, self.worst_stale_seconds) <= self.bound_seconds


class Ring:
    """The ring's nodes, the writers' ways to them, and what happens to both."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self.names = [url.rpartition("=")[2] for url in services.ring_urls]
        ports = [int(urlsplit(url).port or 0) for url in services.ring_urls]
        self._proxies = {name: Proxy(port) for name, port in zip(self.names, ports, strict=True)}
        self.writers_urls = ",".join(
            f"redis://127.0.0.1:{proxy.port}/0?name={name}" for name, proxy in self._proxies.items()
        )
        #: What the processes that run now note.
        self.ledger = Ledger(0, 0)
        kinds = ("held still", "restarted empty", "requests cut", "replies cut")
        self._turns = zip(itertools.cycle(kinds), itertools.cycle(self.names), strict=False)
        self.accidents = dict.fromkeys(kinds, 0)

    def have_accident(self) -> None:
        """Have the next accident happen to the next node, for long enough to be noticed."""
        kind, name = next(self._turns)
        self.accidents[kind] += 1
        self.ledger.back_since.value = 0.0
        if kind == "held still":
            self._services.stop(name)
        elif kind == "restarted empty":
            self._services.kill(name)
        else:
            self._proxies[name].cut(kind.partition(" ")[0])
        time.sleep(STOP_SECONDS)
        if kind == "held still":
            self._services.resume(name)
        elif kind == "restarted empty":
            self._services.restart(name)
        else:
            self._proxies[name].mend()
        self.ledger.back_since.value = time.monotonic()


def check(mode: str, seconds: float, ring: Ring) -> Checked:
    """Run readers, writers, a relay and a killer for so long. Django is set up, the tables are made."""
    from django.db import connections

    from tests.live.actors import make_rows

    strict = mode == "strict"
    keys = make_rows(ROWS)
    ledger = ring.ledger = Ledger(ROWS, READERS)
    checked = Checked(mode)
    before = dict(ring.accidents)
    writers: list[BaseProcess] = []
    others: list[BaseProcess] = []

    def write(share: int) -> BaseProcess:
        return spawn(
            "tests.live.actors.write", keys[share::WRITERS], ledger, strict, RING_NODES=ring.writers_urls
        )

    try:
        writers += [write(share) for share in range(WRITERS)]
        others += [spawn("tests.live.actors.read", me, keys, ledger, strict) for me in range(READERS)]
        others.append(spawn("tests.live.actors.relay", RELAY_SECONDS, ledger))
        while not (ledger.reads and ledger.writes):
            stop_if_dead(writers + others)
            time.sleep(0.05)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(KILL_EVERY_SECONDS)
            stop_if_dead(others)
            share = checked.kills % WRITERS
            writers[share].kill()
            writers[share].join()
            checked.kills += 1
            left = _seconds_until_mended(keys[share::WRITERS])
            checked.worst_crash_seconds = max(checked.worst_crash_seconds, left)
            writers[share] = write(share)
            ring.have_accident()
    finally:
        for process in writers + others:
            process.kill()
            process.join()
        connections.close_all()
    checked.reads, checked.writes = ledger.reads, ledger.writes
    checked.stale, checked.worst_stale_seconds = sum(ledger.stale), max(ledger.worst_stale)
    checked.lag_seconds = ledger.lag.value
    checked.accidents = {kind: count - before[kind] for kind, count in ring.accidents.items()}
    from cachebackend.invalidation.relay import SETTLING_SECONDS

    checked.bound_seconds = SETTLING_SECONDS + 2 * RELAY_SECONDS + PROBE_SECONDS
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


def main() -> None:
    """Check both modes, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="how long each mode is checked (default: 30)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a mode")
    options = parser.parse_args()
    with Services(ring=3, queue=1) as services:
        set_up(services)
        logging.disable()
        ring = Ring(services)
        found = [check(mode, options.seconds, ring) for mode in ("commit", "strict")]
    for checked in found:
        told = asdict(checked)
        print(
            json.dumps(told) if options.json else "  ".join(f"{name} {value}" for name, value in told.items())
        )
    sys.exit(not all(checked.is_well for checked in found))


if __name__ == "__main__":
    main()
