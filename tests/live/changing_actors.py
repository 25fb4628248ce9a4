"""The processes of `change_checker`: they write, drain and read, and start again with new settings."""

from __future__ import annotations

import logging
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from decimal import Decimal
from importlib import import_module
from typing import Any

from tests.live.drain_checker import die_at
from tests.live.meters import EXTRAS, LIVES, PUTS, REST, SUMS, Meters, key_of
from tests.live.world import Role, World, become

__all__ = ["drainer", "reader", "writer"]

POLL_SECONDS = 0.02
#: Seconds between two writes, or reads, of a process: the processors are for the drains as well.
PAUSE_SECONDS = 0.002
#: What children need. Each would import them again, and on a busy machine be killed meanwhile.
_MODULES = (
    "django.contrib.postgres.expressions",
    "django.db.backends.postgresql.base",
    "django.test",
    "cachebackend.writebehind",
)


def writer(actor: int, number: int, world: World, meters: Meters) -> None:
    """Write until killed, again and again."""
    _live(actor, "writer", world, meters, lambda model, work: _write(model, number, work, meters))


def drainer(actor: int, _: int, world: World, meters: Meters) -> None:
    """Do what ticks and drains do until killed, again and again."""
    _live(actor, "drainer", world, meters, _drain)


def reader(actor: int, _: int, world: World, meters: Meters) -> None:
    """Read sums until killed, again and again."""
    _live(actor, "reader", world, meters, lambda model, work: _read(model, actor, meters))


def _live(actor: int, name: str, world: World, meters: Meters, run: Callable[[Any, list[str]], None]) -> None:
    os.setpgid(0, 0)  # so that one signal suspends or ends it and its child
    logging.disable()  # much is broken on purpose here
    for module in _MODULES:
        import_module(module)
    while True:
        generation, role = world.read(name)
        meters.generations[actor] = generation
        if role.work:
            pid = os.fork()
            if not pid:
                _run_until_killed(world, role, run)
            _wait_until_killed(pid, generation, world)
            meters.kills[actor] += 1
        else:
            time.sleep(POLL_SECONDS)


def _run_until_killed(world: World, role: Role, run: Callable[[Any, list[str]], None]) -> None:
    random.seed(os.urandom(8))
    try:
        model = become(world, role)
        # SIGALRM ends the process by default
        signal.setitimer(signal.ITIMER_REAL, random.choice((0.05, 0.5, 3.0)) * random.uniform(0.5, 1.5))
        run(model, role.work)
    except BaseException:  # noqa: BLE001  # no error is expected: the exit code reports any
        traceback.print_exc()
    os._exit(3)


def _wait_until_killed(pid: int, generation: int, world: World) -> None:
    """Wait for a child that a signal ends; a deploy kills it soon."""
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended and os.WIFEXITED(status):
            os._exit(4)  # only a signal may end it
        if ended:
            return
        if world.generation.value != generation:
            time.sleep(random.uniform(0, 0.3))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return
        time.sleep(POLL_SECONDS)


def _write(model: Any, number: int, work: list[str], meters: Meters) -> None:
    from cachebackend.errors import NodeUnavailableError, RingCacheError

    has_extra = any(field.name == "extra" for field in model._meta.fields)
    indices = {"sums": SUMS, "puts": PUTS, "lives": LIVES} | ({"extras": EXTRAS} if has_extra else {})
    kinds = [kind for kind in indices if kind in work]
    while True:
        kind = random.choice(kinds)
        index = random.choice(indices[kind])
        slot = meters.slot(number, index)
        if kind in {"sums", "extras"}:
            if meters.is_unclear[index]:
                continue
            if meters.attempted[slot] != meters.acknowledged[slot]:  # this writer was killed
                meters.is_unclear[index] = 1
                continue
        meters.attempted[slot] += 1
        turn = meters.attempted[slot]
        time.sleep(PAUSE_SECONDS)
        try:
            _write_one(model, kind, key_of(number, index), turn)
        except RingCacheError as error:
            if getattr(error, "was_sent", False):  # nobody knows the outcome
                if kind in {"sums", "extras"}:
                    meters.is_unclear[index] = 1
            elif isinstance(error, NodeUnavailableError):
                if kind != "lives":
                    meters.attempted[slot] -= 1
                time.sleep(0.02)
            else:
                raise
            continue
        if kind in {"sums", "extras"}:
            meters.acknowledged[slot] += 1
        else:
            meters.acknowledged[slot] = turn


def _write_one(model: Any, kind: str, key: int, turn: int) -> None:
    from django.db.models import F

    if kind == "sums":
        model.behind.update(key, count=F("count") + 1)
    elif kind == "extras":
        model.behind.update(key, extra=F("extra") + 1)
    elif kind == "puts":
        rest = REST if model._meta.get_field("price").decimal_places > 2 else 0
        model.behind.update(key, price=Decimal(turn) / 100 + rest)
    else:
        # In every outcome of the last attempts, the row does not exist after the delete
        model.behind.delete(key)
        if turn % 2:
            model.behind.create(pk=key, title=str(turn))


def _drain(model: Any, _: list[str]) -> None:
    from django.db import DatabaseError, InterfaceError, connection

    from cachebackend import protocol, writebehind
    from cachebackend.errors import NodeUnavailableError, WriteBehindVersionError
    from cachebackend.writebehind import drains
    from cachebackend.writebehind.backoff import database_backoff

    if random.random() < 0.5:
        steps = [(protocol.queue, "seal"), (protocol.queue, "contents"), (protocol.queue, "close")]
        steps += [(drains, "apply_or_park"), (drains, "invalidate_rows"), (connection, "commit")]
        die_at(*random.choice(steps), random.randrange(1, 6), after=random.random() < 0.5)
    while True:
        database_backoff._outages.clear()
        try:
            for partition in writebehind.seal_dirty():
                try:
                    writebehind.drain(partition)
                except WriteBehindVersionError:
                    continue  # for a worker that runs the other version
            for using in writebehind.due_databases():
                writebehind.retry_waiting(using)
        except (NodeUnavailableError, DatabaseError, InterfaceError):
            connection.close()
            time.sleep(0.02)


def _read(model: Any, actor: int, meters: Meters) -> None:
    from django.db import DatabaseError, InterfaceError, connection

    from cachebackend.errors import NodeUnavailableError

    seen: dict[int, int] = {}
    while True:
        time.sleep(PAUSE_SECONDS)
        index = random.choice(SUMS)
        low = max(meters.bounds(index)[0], seen.get(index, 0))
        try:
            value = int(model.behind.get(key_of(0, index)).count)
        except (NodeUnavailableError, DatabaseError, InterfaceError):
            connection.close()
            time.sleep(0.02)
            continue
        high = meters.bounds(index)[1]
        meters.reads[actor] += 1
        if not low <= value <= high:
            meters.wrong_reads[actor] += 1
        seen[index] = value
