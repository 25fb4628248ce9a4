"""Processes move rows between lists and read the lists through a real ring while it is broken.

Writers give rows new versions, by several methods, alone and in transactions, and each version is in
another list or deleted (``tests.live.lists``). Readers evaluate cached querysets: rows of a list, each
from its own entry, values, counts, aggregates, groups. Each result must be possible for what was
acknowledged before the read began. In ``calm`` nothing is broken, and no result may be older. In the
other modes writers are killed, and nodes are suspended, restarted empty and cut off from the writers,
as in ``tests.live.checker``.

``python -m tests.live.list_checker --seconds 60`` (``make soak``) prints what was read, written and
broken. It exits with 1 if a result shows what was rolled back; if one is older than what was acknowledged
before in ``calm``; or if in another mode it is so for longer than the relay may take.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

from tests.live.checker import KILL_EVERY_SECONDS, PROBE_SECONDS, RELAY_SECONDS, Checked, run
from tests.live.ledger import Ledger
from tests.live.outages import Outages
from tests.live.spawning import spawn, stop_if_dead

ROWS, READERS, WRITERS = 24, 2, 2
#: How long is waited until lists that a killed writer left behind are right again.
PATIENCE = 60.0
#: ``OPTIONS`` of the alias by mode, as JSON.
MODES = {"calm": "{}", "broken": "{}", "near": '{"near": {"max_entries": 1000}}'}


@dataclass
class CheckedLists(Checked):
    """The result of a run.

    Attributes:
        hits: Reads for which the database was not asked.
    """

    hits: int = 0

    @property
    def is_well(self) -> bool:
        """True if no result was older than it may be."""
        if not self.reads or not self.hits or self.uncommitted or (self.stale and self.mode == "calm"):
            return False
        return max(self.worst_crash_seconds, self.worst_stale_seconds) <= self.bound_seconds


class Site:
    """The processes of a run: writers, which may be killed, and others, which must not end."""

    def __init__(self, mode: str, ring: Outages, ledger: Ledger) -> None:
        self._options, self._ring, self._ledger = ring.options(MODES[mode]), ring, ledger
        self.writers = [self._write(share) for share in range(WRITERS)]
        self.others = [
            spawn("tests.live.list_actors.read", me, ledger, RING_OPTIONS=self._options)
            for me in range(READERS)
        ]
        relay = spawn("tests.live.actors.relay", RELAY_SECONDS, ledger, RING_OPTIONS=self._options)
        self.others.append(relay)

    def _write(self, share: int) -> BaseProcess:
        environment = {"RING_OPTIONS": self._options, "RING_NODES": self._ring.writers_urls}
        rows = range(ROWS)[share::WRITERS]
        return spawn("tests.live.list_actors.write", rows, self._ledger, **environment)

    def wait_for_work(self) -> None:
        """Return when every process has started to work."""
        while not (all(self._ledger.read) and self._ledger.writes):
            stop_if_dead(self.writers + self.others)
            time.sleep(0.05)

    def kill_writer(self, share: int) -> float:
        """Kill a writer and start another; return for how many seconds lists differed from its writes."""
        self.writers[share].kill()
        self.writers[share].join()
        seconds_wrong = _seconds_until_equal(range(ROWS)[share::WRITERS])
        self.writers[share] = self._write(share)
        return seconds_wrong

    def end(self) -> None:
        """Kill all processes."""
        for process in self.writers + self.others:
            process.kill()
            process.join()


def _seconds_until_equal(numbers: range) -> float:
    """Return how long it takes until each cached list has the rows of a killed writer that it should have."""
    from tests.live.list_actors import read_lists

    started = time.monotonic()
    while any(cached != plain for cached, plain in read_lists(numbers)):
        if time.monotonic() - started > PATIENCE:
            break
        time.sleep(0.01)
    return time.monotonic() - started


def check(mode: str, seconds: float, ring: Outages) -> CheckedLists:
    """Run a site, and then wait for ``bound_seconds``. Django must be set up."""
    from django.db import connections

    from cachebackend.protocol.missed_deletes import SETTLING_SECONDS
    from tests.live.list_actors import make_rows

    make_rows(ROWS)
    ledger = ring.ledger = Ledger(ROWS, READERS)
    checked = CheckedLists(mode, bound_seconds=SETTLING_SECONDS + 2 * RELAY_SECONDS + PROBE_SECONDS)
    before = dict(ring.accidents)
    site = Site(mode, ring, ledger)
    try:
        site.wait_for_work()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(KILL_EVERY_SECONDS, seconds))
            stop_if_dead(site.others)
            if mode != "calm":
                seconds_wrong = site.kill_writer(checked.kills % WRITERS)
                checked.kills += 1
                checked.worst_crash_seconds = max(checked.worst_crash_seconds, seconds_wrong)
                ring.cause_outage()
        if mode != "calm":
            time.sleep(checked.bound_seconds + RELAY_SECONDS)  # what is old for longer shows now
        stop_if_dead(site.others)
    finally:
        site.end()
        connections.close_all()
    checked.reads, checked.hits, checked.near_hits = ledger.reads, sum(ledger.hits), sum(ledger.near)
    checked.writes, checked.uncommitted = ledger.writes, sum(ledger.uncommitted)
    checked.stale, checked.worst_stale_seconds = sum(ledger.stale), max(ledger.worst_stale)
    checked.lag_seconds = ledger.lag.value
    checked.accidents = {kind: count - before[kind] for kind, count in ring.accidents.items()}
    return checked


if __name__ == "__main__":
    run(check, MODES, __doc__)
