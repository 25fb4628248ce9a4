"""Processes write behind and drain while they, the queue node and Postgres are killed; all must balance.

``python -m tests.live.drain_checker --seconds 60`` (``make soak``) prints what was acknowledged,
what was applied, and whether anything was lost, doubled or out of order. Writers record in shared
memory, which outlives them, what they are about to send and what was acknowledged. The sum in
Postgres at the end must lie between the two; so must last values, and rows that were created and
deleted. A writer that does not know whether an addition was taken continues with a new row, so
that the two stay close. At the end the queue node comes back with older files: see ``old_servers``.

With ``--cluster`` the queue is on a cluster, whose slots move between its primaries while these are killed,
suspended and failed over. Its writes wait for the disks of a primary and of a replica.
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
import traceback
from dataclasses import asdict
from datetime import timedelta
from multiprocessing.process import BaseProcess
from typing import Any

from cacheproject.processes import call_after_setup
from cacheproject.services import Services
from tests.live import old_servers
from tests.live.balance import (
    FIRST_KEY,
    FRESH,
    FRESH_A_SECOND,
    LIVES,
    PUTS,
    START,
    SUMS,
    Balance,
    Ledger,
    put_key,
    weigh,
)
from tests.live.queue_outages import QueueOutages
from tests.live.spawning import set_up, stop_if_dead

WRITERS, DRAINERS, READERS = 4, 2, 4
KILL_SERVER_SECONDS = 2.0
SHORT_LIFE_SECONDS, LONG_LIFE_SECONDS = 0.7, 5.0
OLDER_FILES = 2
_context = multiprocessing.get_context("spawn")


# The processes; each one is forked again from a warm parent whenever it is killed


def writers(number: int, ledger: Ledger) -> None:
    """Write, be killed at a random moment, and start again."""
    _restart_forever(ledger, 0, lambda: _write(number, ledger))


def drainers(_: int, ledger: Ledger) -> None:
    """Drain, be killed at a numbered step or at a random moment, and start again."""
    _restart_forever(ledger, 1, _drain_until_killed)


def _restart_forever(ledger: Ledger, kind: int, run: Any) -> None:
    while True:
        pid = os.fork()
        if not pid:
            generator = random.Random(os.getpid() ^ time.time_ns())
            # SIGALRM ends the process by default
            signal.setitimer(signal.ITIMER_REAL, generator.uniform(0.02, ledger.life_seconds))
            try:
                run()
            except BaseException:  # noqa: BLE001  # the checker ends with what has ended its process
                traceback.print_exc()
            finally:
                os._exit(3)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            os._exit(4)  # only a signal may end it
        ledger.kills[kind] += 1


def _write(number: int, ledger: Ledger) -> None:
    from django.db.models import F

    from cachebackend.errors import NodeUnavailableError
    from cacheproject.demo.models import Article

    generator = random.Random(os.getpid() ^ time.time_ns())
    while True:
        index = generator.randrange(SUMS + PUTS + LIVES)
        is_sum = index < SUMS
        index = ledger.row_to_add_to(number, index) if is_sum else index - SUMS + ledger.sums
        slot = ledger.slot(number, index)
        # A sum counts its additions; puts and rows are numbered after the last attempt
        ledger.attempted[slot] += 1
        turn = ledger.attempted[slot]
        try:
            if is_sum:
                Article.behind.update(FIRST_KEY + index, views=F("views") + 1)
            elif index < ledger.sums + PUTS:
                moment = START + timedelta(microseconds=turn)
                Article.behind.update(put_key(number, index), last_viewed=moment)
            elif turn % 2:
                # In every outcome of the last attempts, the row does not exist after the delete
                Article.behind.delete(put_key(number, index))
                Article.behind.create(
                    pk=put_key(number, index), slug=f"life-{number}-{index}", title=str(turn)
                )
            else:
                Article.behind.delete(put_key(number, index))
        except NodeUnavailableError:
            time.sleep(0.02)
            continue
        if is_sum:
            ledger.acknowledged[slot] += 1
        else:
            ledger.acknowledged[slot] = turn


def _drain_until_killed() -> None:
    from django.db import InterfaceError, OperationalError, connection

    from cachebackend import protocol, writebehind
    from cachebackend.errors import NodeUnavailableError
    from cachebackend.writebehind import drains
    from cachebackend.writebehind.backoff import database_backoff

    generator = random.Random(os.getpid() ^ time.time_ns())
    if generator.random() < 0.7:
        steps = [(protocol.queue, "seal"), (protocol.queue, "contents"), (protocol.queue, "close")]
        steps += [(drains, "apply_or_park"), (drains, "invalidate_rows"), (connection, "commit")]
        die_at(*generator.choice(steps), generator.randrange(1, 6), after=generator.random() < 0.5)
    database_backoff._outages.clear()
    while True:
        try:
            for partition in writebehind.seal_dirty():
                writebehind.drain(partition)
        except (NodeUnavailableError, OperationalError, InterfaceError):
            connection.close()
            database_backoff._outages.clear()
            time.sleep(0.02)


def die_at(owner: Any, name: str, turn: int, *, after: bool) -> None:
    """Kill this process at the ``turn``-th call of a step, before or after the call."""
    real = getattr(owner, name)
    remaining = [turn]

    def step(*arguments: Any, **named: Any) -> Any:
        remaining[0] -= 1
        if not remaining[0] and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        done = real(*arguments, **named)
        if not remaining[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(owner, name, step)


def readers(number: int, ledger: Ledger) -> None:
    """Read sums. A sum never decreases, has all acknowledged additions, and none that was not sent."""
    from django.db import DatabaseError, connection

    from cachebackend.errors import NodeUnavailableError
    from cacheproject.demo.models import Article

    generator = random.Random(number)
    seen = [0] * ledger.sums
    while True:
        row = ledger.current[generator.randrange(SUMS)]
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
    outages: QueueOutages | None = None,
) -> Balance:
    """Run the processes for ``seconds``, drain what is queued, and compare. Django must be set up.

    Args:
        services: The servers.
        seconds: For how long the processes run.
        writing: The number of processes that write.
        draining: The number of processes that drain.
        reading: The number of processes that read.
        kill_servers: Whether servers are killed.
        outages: The outages of a cluster; None: the queue is on one node.
    """
    from django.db import connections

    from cacheproject.demo.models import Article

    Article.objects.filter(pk__gte=FIRST_KEY).delete()
    fresh = FRESH + int(FRESH_A_SECOND * seconds)
    # A new process reads the topology of the cluster first
    life_seconds = SHORT_LIFE_SECONDS if outages is None else LONG_LIFE_SECONDS
    ledger, balance = Ledger(writing, reading, fresh, life_seconds), Balance()
    keys = [FIRST_KEY + row for row in range(ledger.sums)]
    keys += [put_key(w, ledger.sums + index) for w in range(writing) for index in range(PUTS)]
    Article.objects.bulk_create(Article(pk=key, slug=f"row-{key}", title="x") for key in keys)
    connections.close_all()
    servers = {"queue-a" if outages is None else "cluster": 0, "postgres": 0}
    parents = [_spawn("writers", n, ledger) for n in range(writing)]
    parents += [_spawn("drainers", n, ledger) for n in range(draining)]
    parents += [_spawn("readers", n, ledger) for n in range(reading)]
    try:
        while not (sum(ledger.acknowledged) and sum(ledger.reads)):
            stop_if_dead(parents)
            time.sleep(0.05)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(min(KILL_SERVER_SECONDS, max(end - time.monotonic(), 0)))
            stop_if_dead(parents)
            if kill_servers:
                name = min(servers, key=lambda name: servers[name])
                if name == "cluster" and outages is not None:
                    outages.cause_outage()
                else:
                    services.kill(name)
                    services.restart(name)
                servers[name] += 1
    finally:
        for process in parents:
            if process.pid:
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
    drain_all()
    weigh(ledger, balance)
    if kill_servers and outages is None:
        balance.older_files = OLDER_FILES
        balance.stopped, wrong = old_servers.bring_back_older_files(services, OLDER_FILES)
        balance.wrong += wrong
    balance.kills = {"writers": ledger.kills[0], "workers": ledger.kills[1]} | servers
    balance.kills |= {} if outages is None else outages.accidents
    balance.reads, balance.wrong_reads = sum(ledger.reads), sum(ledger.wrong_reads)
    return balance


def _spawn(name: str, number: int, ledger: Ledger) -> BaseProcess:
    process = _context.Process(target=_lead, args=(name, number, ledger))
    process.start()
    return process


def _lead(name: str, number: int, ledger: Ledger) -> None:
    os.setpgid(0, 0)  # so that one signal ends it and all its children
    logging.disable()  # servers are killed on purpose here
    call_after_setup(f"tests.live.drain_checker.{name}", number, ledger)


def drain_all() -> None:
    """Drain everything, waiting for servers that are restarting."""
    from django.db import InterfaceError, OperationalError, connections

    from cachebackend import writebehind
    from cachebackend.errors import NodeUnavailableError

    deadline = time.monotonic() + 60
    while True:
        try:
            dirty = writebehind.dirty_partitions()
            for partition, _ in dirty:
                writebehind.drain(partition)
        except (NodeUnavailableError, OperationalError, InterfaceError):
            connections.close_all()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            if not dirty:
                return


def main() -> None:
    """Run the check and print its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the run (default: 30)")
    parser.add_argument("--writers", type=int, default=WRITERS, help=f"processes (default: {WRITERS})")
    parser.add_argument("--drainers", type=int, default=DRAINERS, help=f"processes (default: {DRAINERS})")
    parser.add_argument("--readers", type=int, default=READERS, help=f"processes (default: {READERS})")
    parser.add_argument("--keep-servers", action="store_true", help="kill no servers, only processes")
    parser.add_argument("--cluster", action="store_true", help="on a cluster whose slots and primaries move")
    parser.add_argument(
        "--wait-replicas", type=int, default=1, help="the option wait_replicas, on a cluster (default: 1)"
    )
    parser.add_argument(
        "--durability", default="fsync", help="the option durability, on a cluster (default: fsync)"
    )
    parser.add_argument(
        "--impatient", action="store_true", help="replace primaries although replicas lack keys that moved"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with Services(ring=1, queue="cluster" if options.cluster else 1, appendfsync="always") as services:
        outages = None
        if options.cluster:
            waits = {"wait_replicas": options.wait_replicas, "durability": options.durability}
            os.environ["WRITE_BEHIND_OPTIONS"] = json.dumps(waits)
            outages = QueueOutages(services, is_patient=not options.impatient)
        set_up(services)
        balance = check(
            services,
            options.seconds,
            writing=options.writers,
            draining=options.drainers,
            reading=options.readers,
            kill_servers=not options.keep_servers,
            outages=outages,
        )
    report = asdict(balance)
    print(
        json.dumps(report)
        if options.json
        else "\n".join(f"{name}: {value}" for name, value in report.items())
    )
    sys.exit(not balance.is_well)


if __name__ == "__main__":
    main()
