"""The site that `change_checker` runs: its servers, its processes, and what an operator does to them."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from typing import Any

import psycopg
from django.db import connections

from cacheproject.services import Services
from tests.live.meters import Meters
from tests.live.spawning import spawn, stop_if_dead
from tests.live.world import Role, Version, World, run_as, wait_for

__all__ = ["KINDS", "Site"]

_QUEUE_SETTINGS = ("--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction")
KINDS = ("writer", "drainer", "reader")


class Site:
    """The servers, the processes, and the settings that they have.

    Args:
        services: The servers.
        counts: The number of processes of each kind.
        durability: That of the queue.
    """

    def __init__(self, services: Services, counts: dict[str, int], durability: str) -> None:
        self.services = services
        self._fsync = "always" if durability == "fsync" else "everysec"
        self.world = World(services.folder / "world.json", durability)
        self.meters = Meters(counts["writer"], sum(counts.values()))
        self.nodes = {"queue-a": services.queue_urls[0]}
        self._started = 1
        #: The settings of all processes, while they do not differ.
        self.role = Role(list(self.nodes.values()), work=["sums", "puts", "lives"])
        self.wrong: list[str] = []
        connections.close_all()  # else forked processes would share them
        with self.database() as database:
            self.meters.create_table(database)
        self.publish()
        self.processes = []
        actor = 0
        for kind in KINDS:
            for number in range(counts[kind]):
                arguments = (actor, number, self.world, self.meters)
                self.processes.append((kind, spawn(f"tests.live.changing_actors.{kind}", *arguments)))
                actor += 1

    # Settings

    def publish(self, **other: Role) -> None:
        """Publish the settings of all roles, without waiting for the processes to have them."""
        self.world.publish(dict.fromkeys(KINDS, self.role) | other)

    def deploy(self, **other: Role) -> None:
        """Publish settings, and wait until no process has older ones."""
        self.publish(**other)
        wait_for(self._has_deployed, lambda: "a process has older settings")

    def _has_deployed(self) -> bool:
        self.check_processes()
        return bool(min(self.meters.generations) >= self.world.generation.value)

    def check_processes(self) -> None:
        """Raise if a process ended by itself."""
        stop_if_dead(process for _, process in self.processes)

    def run_on(self, seconds: float, additions: int) -> None:
        """Let the processes run for some time, and longer if fewer additions than these are acknowledged.

        On a busy machine the processes may get too little of a processor to write anything in the time.
        """
        enough = self.meters.additions() + additions

        def is_enough() -> bool:
            self.check_processes()
            return self.meters.additions() >= enough

        time.sleep(seconds)
        wait_for(is_enough, self.diagnosis)

    @property
    def idle(self) -> Role:
        """The settings of processes that do nothing."""
        return self.changed(work=[])

    def changed(self, **attributes: Any) -> Role:
        """Return the present settings with other attributes."""
        return Role(**(vars(self.role) | attributes))

    @contextmanager
    def paused(self, *kinds: str) -> Iterator[None]:
        """Suspend the processes of these kinds; by default all."""
        self.deploy(**dict.fromkeys(kinds or KINDS, self.idle))
        yield
        self.deploy()

    @property
    def version(self) -> Version:
        """The version of the code that fits the table."""
        return self.role.versions[0]

    # What an operator does

    def command(self, *words: str) -> dict[str, Any]:
        """Run ``manage.py writebehind`` with ``--json`` in a new process; return what it prints."""
        return self.run(_command, words)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in a new process, whose clock is right; return its result."""
        return run_as(self.world, self.changed(clocks=[0.0]), function, *arguments)

    def drain_all(self) -> None:
        """Drain until nothing is queued and nothing waits to be retried."""
        wait_for(self._is_drained, self.diagnosis)

    def _is_drained(self) -> bool:
        """Drain, and return whether the command says that nothing is left on any node or waits."""
        report = self.command("drain", "--timeout", "10")
        return not (report["left"] or report["waiting"] or report["unanswered"])

    def diagnosis(self) -> str:
        """Return what the commands report of the queues."""
        return json.dumps([self.command("nodes"), self.command("status"), self.command("drain")])

    def weigh(self) -> None:
        """Suspend all processes, drain, and compare."""
        with self.paused():
            self.settle()

    def settle(self) -> None:
        """Drain, and compare, while all processes are suspended."""
        self.drain_all()
        with self.database() as database:
            self.wrong += self.meters.weigh(database, has_extra=self.version.has_extra)

    def database(self) -> psycopg.Connection[Any]:
        """Return a connection of its own to Postgres; a block closes it."""
        assert self.services.database_url
        return psycopg.connect(self.services.database_url, autocommit=True)

    def alter(self, statement: str) -> None:
        """Change the table, like a migration that waits for a second, and then again."""

        def is_done() -> bool:
            with self.database() as database:
                database.execute("SET lock_timeout = '1s'")
                try:
                    database.execute(statement)
                except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
                    return False
            return True

        wait_for(is_done, lambda: f"no lock for {statement}")

    # Servers

    def add_queue_node(self) -> tuple[str, str]:
        """Start one more queue node; return its name and its URL."""
        name = f"queue-new-{self._started}"
        self._started += 1
        self.services.add_node(name, *_QUEUE_SETTINGS, "--appendfsync", self._fsync)
        return name, self.services.node_url(name)

    def a_node(self) -> str:
        """Return the name of a random queue node."""
        return random.choice(list(self.nodes))

    def suspend(self, kind: str, seconds: float) -> None:
        """Suspend a random process of a kind, at any step."""
        process = random.choice([each for name, each in self.processes if name == kind])
        assert process.pid
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGCONT)

    def end(self) -> None:
        """Kill the processes."""
        for _, process in self.processes:
            if process.pid and process.is_alive():
                os.killpg(process.pid, signal.SIGKILL)
            process.join()


def _command(_: Any, words: list[str]) -> Any:
    from django.core.management import call_command

    printed = StringIO()
    with suppress(SystemExit):  # the report has what is wrong
        call_command("writebehind", *words, "--json", stdout=printed)
    return json.loads(printed.getvalue().splitlines()[-1])
