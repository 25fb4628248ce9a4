"""Processes read and write real rows through a real ring while it is broken; every read is checked.

Rows are read one by one, in pages made of cached rows, and in a value that depends on all of them. They
are written by several managers, in ``triggers`` by SQL too, and some transactions are rolled back.
Writers are killed. Nodes are suspended and continue with the memory that they had, are killed and
come back empty, and are cut off from the writers alone, in one direction or the other; so
processes differ in their view of a node. Rows are written and read in all modes, and in all but
``strict`` also keys that are set, deleted and cleared without a model; in ``near`` the readers keep
copies of them all. The writer of these keys is not cut off: a set that a network holds back arrives
when the network is mended, however late, and it is not a fill that a lease would refuse. In
``cleared`` each outage is longer than ``replay_limit``; in ``flap`` a node goes down and comes back a
hundred times, for long enough that some processes eject it and some do not.

``python -m tests.live.checker --seconds 60`` (``make soak``) prints what was read, written and
broken. It exits with 1 if a read returned what was rolled back; if, in strict mode, a read
returned something older than what was acknowledged before it began; in the other modes, if one did so
later than the relay may take to replay missed deletes to a node that is back; or if readers saw the
difference that a killed writer left for longer than that.

With ``--cluster`` the nodes are a cluster, whose slots move between its primaries while these are killed,
suspended and failed over; the option ``wait_replicas`` is 1.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any

from cacheproject.services import Services
from tests.live.ledger import Ledger
from tests.live.outages import ClusterOutages, Outages, RingOutages
from tests.live.spawning import set_up, spawn, stop_if_dead

ROWS, READERS, WRITERS = 12, 2, 2
#: Keys without a model.
PLAIN = 40
RELAY_SECONDS = 0.5
#: A writer takes a second or two to start, and should then write for a while.
KILL_EVERY_SECONDS = 2.5
FLAPS = 100
#: Seconds between two flaps with the node up; and the scale of the time that it is suspended.
FLAP_SECONDS = 0.5
#: The longest wait between two probes of a node that was down for that time.
PROBE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Mode:
    """What is checked.

    Attributes:
        strict: Whether rows are cached strictly; keys without a model, and pages, cannot be.
        raw: Whether rows are written by SQL too, and triggers on their table notice it.
        options: ``OPTIONS`` of the alias, as JSON.
        flaps: How many times a node is suspended for a moment; 0: all kinds of outages, and killed writers.
    """

    strict: bool = False
    raw: bool = False
    options: str = "{}"
    flaps: int = 0


MODES = {
    "commit": Mode(),
    "triggers": Mode(raw=True),
    "strict": Mode(strict=True),
    "near": Mode(options='{"near": {"max_entries": 1000}}'),
    "cleared": Mode(options='{"replay_limit": 3}'),
    "flap": Mode(flaps=FLAPS),
}


@dataclass
class Checked:
    """The result of a run.

    Attributes:
        mode: Its name in ``MODES``.
        reads: Reads that were checked.
        near_hits: Reads that a copy in the process answered.
        writes: Writes that were acknowledged.
        kills: Writers that were killed by SIGKILL, at any point.
        accidents: Outages of nodes, by kind.
        uncommitted: Reads that returned what a rolled back transaction had written.
        stale: Reads that returned something older than what was acknowledged before them.
        stale_plain: Those of keys without a model. In a cluster a set does not wait for a replica, so a
            failover may lose it, and the value before is read.
        worst_stale_seconds: The longest time between the acknowledgement (and the end of the node's
            outage) and a stale read.
        worst_crash_seconds: The longest time for which reads differed from what a killed writer stored.
        lag_seconds: The age of the oldest pending delete that the relay found.
        bound_seconds: The limit of both: two rounds of the relay, after the time that it leaves to the
            writer for the first try, and the wait for a node's next probe.
    """

    mode: str
    reads: int = 0
    near_hits: int = 0
    writes: int = 0
    kills: int = 0
    accidents: dict[str, int] = field(default_factory=dict)
    uncommitted: int = 0
    stale: int = 0
    stale_plain: int = 0
    worst_stale_seconds: float = 0.0
    worst_crash_seconds: float = 0.0
    lag_seconds: float = 0.0
    bound_seconds: float = 0.0

    @property
    def is_well(self) -> bool:
        """True if no stale value was read, and the effects of crashes ended in time."""
        if not self.reads or self.uncommitted or (self.stale and self.mode == "strict"):
            return False
        if self.mode == "near" and not self.near_hits:
            return False
        return max(self.worst_crash_seconds, self.worst_stale_seconds) <= self.bound_seconds


class Site:
    """The processes of a run: writers, which may be killed, and others, which must not end."""

    def __init__(self, mode: Mode, ring: Outages, keys: list[int], ledger: Ledger) -> None:
        self._mode, self._ring, self._keys, self._ledger = mode, ring, keys, ledger
        self.writers = [self._write(share) for share in range(WRITERS)]
        self.others = [self._spawn("read", me, keys, ledger, mode.strict) for me in range(READERS)]
        self.others.append(self._spawn("relay", RELAY_SECONDS, ledger))
        if not mode.strict:
            plain = range(ROWS, ROWS + PLAIN)
            self.others.append(self._spawn("write_plain", plain, ledger))
            self.others += [self._spawn("read_plain", READERS + me, plain, ledger) for me in range(READERS)]

    def _spawn(self, name: str, *arguments: Any, **environment: str) -> BaseProcess:
        environment["RING_OPTIONS"] = self._ring.options(self._mode.options)
        return spawn(f"tests.live.actors.{name}", *arguments, **environment)

    def _write(self, share: int) -> BaseProcess:
        rows = self._keys[share::WRITERS]
        urls = self._ring.writers_urls
        return self._spawn("write", rows, self._ledger, self._mode.strict, self._mode.raw, RING_NODES=urls)

    def wait_for_work(self) -> None:
        """Return when every process has started to work."""
        readers = READERS if self._mode.strict else 2 * READERS
        while not (all(list(self._ledger.read)[:readers]) and self._ledger.writes):
            stop_if_dead(self.writers + self.others)
            time.sleep(0.05)

    def kill_writer(self, share: int) -> float:
        """Kill a writer and start another; return for how many seconds reads differed from its writes."""
        self.writers[share].kill()
        self.writers[share].join()
        seconds_wrong = _seconds_until_equal(self._keys[share::WRITERS], self._mode.strict)
        self.writers[share] = self._write(share)
        return seconds_wrong

    def end(self) -> None:
        """Kill all processes."""
        for process in self.writers + self.others:
            process.kill()
            process.join()


def check(name: str, seconds: float, ring: Outages) -> Checked:
    """Run a site while its ring is broken, and then for ``bound_seconds``. Django must be set up."""
    from django.db import connections

    from cachebackend.protocol.missed_deletes import SETTLING_SECONDS
    from tests.live.actors import make_rows

    mode = MODES[name]
    keys = make_rows(ROWS)
    ledger = ring.ledger = Ledger(ROWS + PLAIN, 2 * READERS)
    checked = Checked(name, bound_seconds=SETTLING_SECONDS + 2 * RELAY_SECONDS + PROBE_SECONDS)
    before = dict(ring.accidents)
    _drop_triggers()
    if mode.raw:
        _create_triggers()
    site = Site(mode, ring, keys, ledger)
    try:
        site.wait_for_work()
        if mode.flaps:
            _flap(mode.flaps, ring, site)
        else:
            _break(seconds, ring, site, checked)
        time.sleep(checked.bound_seconds + RELAY_SECONDS)  # a value that is stale for longer shows now
        stop_if_dead(site.others)
    finally:
        site.end()
        connections.close_all()
    checked.reads, checked.near_hits, checked.writes = ledger.reads, sum(ledger.near), ledger.writes
    checked.uncommitted = sum(ledger.uncommitted)
    checked.stale, checked.worst_stale_seconds = sum(ledger.stale), max(ledger.worst_stale)
    checked.stale_plain = sum(ledger.stale[READERS:])
    checked.lag_seconds = ledger.lag.value
    checked.accidents = {kind: count - before[kind] for kind, count in ring.accidents.items()}
    return checked


def _create_triggers() -> None:
    """Create the triggers that notice what SQL changes; a writer that is not killed takes in their rows."""
    import pgtrigger
    from django.db import connection

    from cachebackend.invalidation.triggers import add_triggers
    from cacheproject.demo.models import Article

    add_triggers(Article)
    with connection.cursor() as cursor:
        for model, trigger in pgtrigger.registered():
            if model is Article:
                cursor.execute(str(trigger.compile(model).install_sql))


def _drop_triggers() -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'pgtrigger_ringcache_%'")
        for (name,) in cursor.fetchall():
            cursor.execute(f"DROP TRIGGER {name} ON demo_article")


def _break(seconds: float, ring: Outages, site: Site, checked: Checked) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(KILL_EVERY_SECONDS)
        stop_if_dead(site.others)
        seconds_wrong = site.kill_writer(checked.kills % WRITERS)
        checked.kills += 1
        checked.worst_crash_seconds = max(checked.worst_crash_seconds, seconds_wrong)
        ring.cause_outage()


def _flap(times: int, ring: Outages, site: Site) -> None:
    generator = random.Random(times)
    for _ in range(times):
        ring.suspend(generator.uniform(0.1, 2 * FLAP_SECONDS))
        time.sleep(FLAP_SECONDS)
        stop_if_dead(site.writers + site.others)


def _seconds_until_equal(keys: list[int], strict: bool) -> float:
    """Return how long it takes until all ways to read a killed writer's rows equal the database."""
    from cacheproject.demo.models import Article
    from tests.live.actors import ways_to_read

    started = time.monotonic()
    pks = [key % 1_000_000 for key in keys]
    while True:
        stored = dict(Article.objects.filter(pk__in=pks).values_list("pk", "views"))
        if all(read(pk) == stored[pk] for read in ways_to_read(strict) for pk in pks):
            return time.monotonic() - started
        time.sleep(0.01)


def run(
    check: Callable[[str, float, Outages], Checked], modes: Collection[str], description: str | None
) -> None:
    """Check the modes that the command line names, print each result, and exit with 1 if one is bad."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="how long each mode is checked (default: 30)"
    )
    parser.add_argument("--modes", nargs="+", choices=modes, default=list(modes), help="default: all")
    parser.add_argument("--json", action="store_true", help="print one JSON object a mode")
    parser.add_argument("--cluster", action="store_true", help="on a cluster whose slots and primaries move")
    parser.add_argument(
        "--wait-replicas", type=int, default=1, help="the option wait_replicas, on a cluster (default: 1)"
    )
    options = parser.parse_args()
    with Services(ring="cluster" if options.cluster else 3, queue=1) as services:
        set_up(services)
        logging.disable()
        wait_replicas = options.wait_replicas
        ring = ClusterOutages(services, wait_replicas) if options.cluster else RingOutages(services)
        results = []
        for mode in options.modes:
            checked = check(mode, options.seconds, ring)
            results.append(checked)
            report = asdict(checked)
            line = json.dumps(report) if options.json else "  ".join(f"{k} {v}" for k, v in report.items())
            print(line, flush=True)
    sys.exit(not all(checked.is_well for checked in results))


if __name__ == "__main__":
    run(check, MODES, __doc__)
