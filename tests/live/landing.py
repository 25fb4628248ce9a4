"""Processes write behind and drain while they, the queue node and Postgres are killed; all must balance.

``python -m tests.live.landing --seconds 60`` (``make soak``) prints what was acknowledged, what
landed, and whether anything was lost, doubled or out of order. Writers note what they are
about to send and what was acknowledged in memory that outlives them. A sum that stands in
Postgres in the end lies between the two; so do last values, and rows that were made and removed.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from typing import Any

from cacheproject.launch import call_after_setup
from cacheproject.services import Services
from tests.live.spawning import set_up, stop_if_dead

WRITERS, DRAINERS, READERS = 4, 2, 4
#: Rows that every writer adds to; rows of each writer's own that it puts values to; and that
#: it creates and deletes.
SUMS, PUTS, LIVES = 20, 10, 4
#: Keys far from those that the database makes.
FIRST_KEY = 50_000_000
START = datetime(2020, 1, 1, tzinfo=UTC)
KILL_SERVER_SECONDS = 2.0
_context = multiprocessing.get_context("spawn")


class Ledger:
    """What writers were about to write, and what of it was acknowledged; it outlives them."""

    def __init__(self, writers: int, readers: int) -> None:
        self.writers = writers
        size = writers * (SUMS + PUTS + LIVES)
        self.attempted = _context.Array("q", size, lock=False)
        self.acknowledged = _context.Array("q", size, lock=False)
        self.kills = _context.Array("q", 3, lock=False)
        self.reads = _context.Array("q", readers, lock=False)
        self.wrong_reads = _context.Array("q", readers, lock=False)

    def slot(self, writer: int, at: int) -> int:
        return writer * (SUMS + PUTS + LIVES) + at

    def sum_of(self, side: Any, row: int) -> int:
        return sum(side[self.slot(writer, row)] for writer in range(self.writers))


def put_key(writer: int, at: int) -> int:
    return FIRST_KEY + 1000 * (writer + 1) + at


@dataclass
class Balance:
    """What came of a run.

    Attributes:
        acknowledged: Writes that were acknowledged.
        unknown: Writes that were sent and not acknowledged.
        applied: What of both stands in Postgres, of sums.
        lost: Rows that have less, or something older, than was acknowledged.
        doubled: Rows that have more than was ever sent.
        reads: Reads of ``behind`` that were checked.
        wrong_reads: Those that went back, or were outside of what was acknowledged and sent.
        kills: Of writers, of workers, of the queue node and of Postgres.
        wrong: The rows at fault.
    """

    acknowledged: int = 0
    unknown: int = 0
    applied: int = 0
    lost: int = 0
    doubled: int = 0
    parked: int = 0
    reads: int = 0
    wrong_reads: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        """True if everything balances, and enough was tried to say so."""
        return not (self.lost or self.doubled or self.parked or self.wrong_reads) and self.applied > 0


# The processes; each is forked anew from a warm one whenever it dies


def writers(number: int, ledger: Ledger) -> None:
    """Write, be killed at a moment of chance, and be born again."""
    _reborn(ledger, 0, lambda: _write(number, ledger))


def drainers(_: int, ledger: Ledger) -> None:
    """Drain, be killed at a numbered step or at a moment of chance, and be born again."""
    _reborn(ledger, 1, _drain_until_killed)


def _reborn(ledger: Ledger, kind: int, work: Any) -> None:
    while True:
        pid = os.fork()
        if not pid:
            chance = random.Random(os.getpid() ^ time.time_ns())
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.02, 1.0))  # the default of SIGALRM: the end
            try:
                work()
            finally:
                os._exit(3)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            os._exit(4)  # it may end by a signal only
        ledger.kills[kind] += 1


def _write(number: int, ledger: Ledger) -> None:
    from django.db.models import F

    from cachebackend.errors import NodeUnavailableError
    from cacheproject.demo.models import Article

    chance = random.Random(os.getpid() ^ time.time_ns())
    while True:
        at = chance.randrange(SUMS + PUTS + LIVES)
        slot = ledger.slot(number, at)
        # A sum counts ones; puts and lives are numbered on from what was last tried
        ledger.attempted[slot] += 1
        turn = ledger.attempted[slot]
        try:
            if at < SUMS:
                Article.behind.update(FIRST_KEY + at, views=F("views") + 1)
            elif at < SUMS + PUTS:
                moment = START + timedelta(microseconds=turn)
                Article.behind.update(put_key(number, at), last_viewed=moment)
            elif turn % 2:
                # Whatever the last turns came to: first there is none
                Article.behind.delete(put_key(number, at))
                Article.behind.create(pk=put_key(number, at), slug=f"life-{number}-{at}", title=str(turn))
            else:
                Article.behind.delete(put_key(number, at))
        except NodeUnavailableError:
            time.sleep(0.02)
            continue
        if at < SUMS:
            ledger.acknowledged[slot] += 1
        else:
            ledger.acknowledged[slot] = turn


def _drain_until_killed() -> None:
    from django.db import InterfaceError, OperationalError, connection

    from cachebackend import protocol, writebehind
    from cachebackend.errors import NodeUnavailableError
    from cachebackend.writebehind import drains

    chance = random.Random(os.getpid() ^ time.time_ns())
    if chance.random() < 0.7:
        steps = [(protocol, "seal"), (protocol, "contents"), (protocol, "close")]
        steps += [(drains, "apply_or_park"), (drains, "invalidate_rows"), (connection, "commit")]
        _die_at(*chance.choice(steps), chance.randrange(1, 6), after=chance.random() < 0.5)
    drains._backoff._away.clear()
    while True:
        try:
            for partition in writebehind.seal_dirty():
                writebehind.drain(partition)
        except (NodeUnavailableError, OperationalError, InterfaceError):
            connection.close()
            drains._backoff._away.clear()
            time.sleep(0.02)


def _die_at(owner: Any, name: str, turn: int, *, after: bool) -> None:
    """Have this process killed when it comes to a step for the so-manieth time, or right after it."""
    real = getattr(owner, name)
    left = [turn]

    def step(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if not left[0] and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        done = real(*arguments, **named)
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(owner, name, step)


def readers(number: int, ledger: Ledger) -> None:
    """Read sums; none may go back, lack what was acknowledged before, or have what was not sent by then."""
    from django.db import DatabaseError, connection

    from cachebackend.errors import NodeUnavailableError
    from cacheproject.demo.models import Article

    chance = random.Random(number)
    seen = [0] * SUMS
    while True:
        row = chance.randrange(SUMS)
        before = max(ledger.sum_of(ledger.acknowledged, row), seen[row])
        try:
            value = Article.behind.get(FIRST_KEY + row).views
        except (NodeUnavailableError, DatabaseError):
            connection.close()
            time.sleep(0.02)
            continue
        ledger.reads[number] += 1
        if not before <= value <= ledger.sum_of(ledger.attempted, row):
            ledger.wrong_reads[number] += 1
        seen[row] = max(seen[row], value)


# The run


def check(
    services: Services,
    seconds: float,
    *,
    writing: int = WRITERS,
    draining: int = DRAINERS,
    reading: int = READERS,
    kill_servers: bool = True,
) -> Balance:
    """Run so many of them for so long, land what is left and balance; Django and the tables are ready."""
    from django.db import connections

    from cacheproject.demo.models import Article

    Article.objects.filter(pk__gte=FIRST_KEY).delete()
    keys = [FIRST_KEY + row for row in range(SUMS)]
    keys += [put_key(w, SUMS + at) for w in range(writing) for at in range(PUTS)]
    Article.objects.bulk_create(Article(pk=key, slug=f"row-{key}", title="x") for key in keys)
    connections.close_all()
    ledger, balance = Ledger(writing, reading), Balance()
    servers = {"queue-a": 0, "postgres": 0}
    nurseries = [_spawn("writers", n, ledger) for n in range(writing)]
    nurseries += [_spawn("drainers", n, ledger) for n in range(draining)]
    nurseries += [_spawn("readers", n, ledger) for n in range(reading)]
    try:
        while not (sum(ledger.acknowledged) and sum(ledger.reads)):
            stop_if_dead(nurseries)
            time.sleep(0.05)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(KILL_SERVER_SECONDS, max(end - time.monotonic(), 0)))
            stop_if_dead(nurseries)
            if kill_servers:
                name = min(servers, key=lambda name: servers[name])
                services.kill(name)
                services.restart(name)
                servers[name] += 1
    finally:
        for process in nurseries:
            if process.pid:
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
    _land_all()
    _weigh(ledger, balance)
    balance.kills = {"writers": ledger.kills[0], "workers": ledger.kills[1]} | servers
    balance.reads, balance.wrong_reads = sum(ledger.reads), sum(ledger.wrong_reads)
    return balance


def _spawn(name: str, number: int, ledger: Ledger) -> BaseProcess:
    process = _context.Process(target=_lead, args=(name, number, ledger))
    process.start()
    return process


def _lead(name: str, number: int, ledger: Ledger) -> None:
    os.setpgid(0, 0)  # so that it can be ended with all its children
    logging.disable()  # that servers are away is what is done to them here
    call_after_setup(f"tests.live.landing.{name}", number, ledger)


def _land_all() -> None:
    from django.db import InterfaceError, OperationalError, connections

    from cachebackend import writebehind
    from cachebackend.errors import NodeUnavailableError

    deadline = time.monotonic() + 60
    while True:
        try:
            dirty = writebehind.seal_dirty()
            for partition in dirty:
                writebehind.drain(partition)
        except (NodeUnavailableError, OperationalError, InterfaceError):
            connections.close_all()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            if not dirty:
                return


def _weigh(ledger: Ledger, balance: Balance) -> None:
    from cachebackend.models import ParkedWrite
    from cacheproject.demo.models import Article

    rows = {row.pk: row for row in Article.objects.filter(pk__gte=FIRST_KEY)}
    balance.parked = ParkedWrite.objects.count()
    for at in range(SUMS):
        low, high = ledger.sum_of(ledger.acknowledged, at), ledger.sum_of(ledger.attempted, at)
        stands = rows[FIRST_KEY + at].views
        balance.applied += stands
        _judge(balance, f"sum {at}", low, stands, high)
    for writer in range(ledger.writers):
        for at in range(SUMS, SUMS + PUTS + LIVES):
            slot = ledger.slot(writer, at)
            low, high = ledger.acknowledged[slot], ledger.attempted[slot]
            row = rows.get(put_key(writer, at))
            if at < SUMS + PUTS:
                seen = (
                    (row.last_viewed - START) // timedelta(microseconds=1) if row and row.last_viewed else 0
                )
                _judge(balance, f"put {writer}.{at}", low, seen, high)
            elif low == high:  # else the last turn is not known to have been taken, or half of it
                expected = str(high) if high % 2 else None
                if (row.title if row else None) != expected:
                    balance.lost += 1
                    balance.wrong.append(f"life {writer}.{at}: {row and row.title}, not {expected}")
    balance.acknowledged, balance.unknown = _totals(ledger)


def _totals(ledger: Ledger) -> tuple[int, int]:
    """Return how many writes were acknowledged, and how many were not, of sums."""
    low = sum(ledger.sum_of(ledger.acknowledged, at) for at in range(SUMS))
    return low, sum(ledger.sum_of(ledger.attempted, at) for at in range(SUMS)) - low


def _judge(balance: Balance, name: str, low: int, stands: int, high: int) -> None:
    if stands < low:
        balance.lost += 1
    elif stands > high:
        balance.doubled += 1
    else:
        return
    balance.wrong.append(f"{name}: {low} acknowledged, {high} sent, {stands} stands")


def main() -> None:
    """Check for so long, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long (default: 30)")
    parser.add_argument("--writers", type=int, default=WRITERS, help=f"processes (default: {WRITERS})")
    parser.add_argument("--drainers", type=int, default=DRAINERS, help=f"processes (default: {DRAINERS})")
    parser.add_argument("--readers", type=int, default=READERS, help=f"processes (default: {READERS})")
    parser.add_argument("--keep-servers", action="store_true", help="kill no servers, only processes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with Services(ring=1, queue=1, appendfsync="always") as services:
        set_up(services)
        balance = check(
            services,
            options.seconds,
            writing=options.writers,
            draining=options.drainers,
            reading=options.readers,
            kill_servers=not options.keep_servers,
        )
    told = asdict(balance)
    print(json.dumps(told) if options.json else "\n".join(f"{name}: {value}" for name, value in told.items()))
    sys.exit(not balance.is_well)


if __name__ == "__main__":
    main()
