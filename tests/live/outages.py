"""The outages that the live checkers cause: of the nodes of a ring, and of the servers of a cluster."""

from __future__ import annotations

import itertools
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from cacheproject.cluster import SlotMove
from cacheproject.services import Services
from tests.live.ledger import Ledger
from tests.live.proxy import Proxy

__all__ = ["STOP_SECONDS", "ClusterOutages", "Outages", "RingOutages"]

#: Long enough that every process ejects the node, or is about to.
STOP_SECONDS = 1.0
#: The number of slots that move at the same time.
MOVING_SLOTS = 4
#: Valkey's first release in which replicas know of slots that are moving.
_KNOWS_MOVES = 8


class Outages(ABC):
    """The outages of some servers, which take turns.

    Args:
        services: The servers.

    Attributes:
        writers_urls: The URLs by which writers reach the servers.
        ledger: The ledger of the processes that run now.
        accidents: How many outages there were, by kind.
    """

    writers_urls: str

    def __init__(self, services: Services) -> None:
        self._services = services
        self.ledger = Ledger(0, 0)
        self._kinds = itertools.cycle(self.kinds)
        self.accidents = dict.fromkeys(self.kinds, 0)

    @property
    @abstractmethod
    def kinds(self) -> Mapping[str, Callable[[], None]]:
        """The functions that cause an outage and end it, by kind."""

    @abstractmethod
    def suspend(self, seconds: float) -> None:
        """Suspend one server for ``seconds``; it loses nothing."""

    def options(self, options: str) -> str:
        """Return the ``OPTIONS`` of an alias on these servers, as JSON, from those of a mode."""
        return options

    def cause_outage(self) -> None:
        """Cause the next outage, for long enough to be noticed."""
        kind = next(self._kinds)
        with self._outage(kind):
            self.kinds[kind]()

    @contextmanager
    def _outage(self, kind: str) -> Iterator[None]:
        self.accidents[kind] += 1
        self.ledger.back_since.value = 0.0
        yield
        self.ledger.back_since.value = time.monotonic()


class RingOutages(Outages):
    """Outages of the nodes of a ring, and of the writers' proxies to them."""

    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self._names = [url.rpartition("=")[2] for url in services.ring_urls]
        self._next_name = itertools.cycle(self._names).__next__
        ports = [int(urlsplit(url).port or 0) for url in services.ring_urls]
        self._proxies = {name: Proxy(port) for name, port in zip(self._names, ports, strict=True)}
        self.writers_urls = ",".join(
            services.node_url(name).replace(f":{port}/", f":{proxy.port}/")
            for port, (name, proxy) in zip(ports, self._proxies.items(), strict=True)
        )

    @property
    def kinds(self) -> Mapping[str, Callable[[], None]]:
        return {
            "held still": lambda: self._suspend(self._next_name(), STOP_SECONDS),
            "restarted empty": lambda: self._restart(self._next_name()),
            "requests cut": lambda: self._cut(self._next_name(), "requests"),
            "replies cut": lambda: self._cut(self._next_name(), "replies"),
        }

    def suspend(self, seconds: float) -> None:
        with self._outage("held still"):
            self._suspend(self._names[0], seconds)

    def _suspend(self, name: str, seconds: float) -> None:
        self._services.stop(name)
        time.sleep(seconds)
        self._services.resume(name)

    def _restart(self, name: str) -> None:
        self._services.kill(name)
        time.sleep(STOP_SECONDS)
        self._services.restart(name)

    def _cut(self, name: str, what: str) -> None:
        self._proxies[name].cut(what)
        time.sleep(STOP_SECONDS)
        self._proxies[name].mend()


class ClusterOutages(Outages):
    """Slots that move between the primaries of a cluster, and primaries that are replaced meanwhile.

    Args:
        services: The servers.
        wait_replicas: The option of this name.
    """

    def __init__(self, services: Services, wait_replicas: int) -> None:
        super().__init__(services)
        self._wait_replicas = wait_replicas
        cluster = services.cluster or services.queue_cluster
        assert cluster is not None
        self._cluster = cluster
        self._next_number = itertools.count().__next__
        self.writers_urls = self._cluster.url
        version = self._cluster.ask(self._cluster.names[0], "INFO", "server").get("valkey_version", "0")
        self._replicas_know_moves = int(version.partition(".")[0]) >= _KNOWS_MOVES

    @property
    def kinds(self) -> Mapping[str, Callable[[], None]]:
        return {
            "killed": lambda: self._replace(self._kill),
            "slots moved": lambda: self._replace(lambda _: time.sleep(STOP_SECONDS)),
            "failed over": lambda: self._replace(self._fail_over),
            "held still": lambda: self._replace(self._hold_still),
        }

    def options(self, options: str) -> str:
        return json.dumps(json.loads(options) | {"wait_replicas": self._wait_replicas})

    def suspend(self, seconds: float) -> None:
        name = self._cluster.primaries[0]
        with self._outage("held still"):
            self._services.stop(name)
            time.sleep(seconds)
            self._services.resume(name)

    def _replace(self, replace: Callable[[str], None]) -> None:
        """Move slots away from a primary; when half of their keys have moved, call ``replace`` for it."""
        cluster = self._cluster
        primaries = cluster.primaries
        number = self._next_number() % len(primaries)
        source, target = primaries[number], primaries[number - 1]
        slots = self._slots_of(source) if self._replicas_know_moves else []
        for slot in slots:
            move = cluster.move_slot(slot, target)
            move.begin()
            keys = move.keys
            for key in keys[: len(keys) // 2]:
                move.move_key(key)
        self._before(source, target)
        replace(source)
        cluster.wait_until_ok()
        for slot in slots:
            self._finish(cluster.move_slot(slot, target))

    def _before(self, source: str, target: str) -> None:
        """Do what must be done before a primary is replaced whose slots have moved in part."""

    def _slots_of(self, primary: str) -> set[int]:
        """Return slots of some keys of a primary."""
        keys = [self._cluster.ask(primary, "RANDOMKEY") for _ in range(MOVING_SLOTS)]
        return {self._cluster.slot_of(key) for key in keys if key}

    def _finish(self, move: SlotMove) -> None:
        """Finish a move whose source may have been replaced."""
        while keys := move.keys:
            for key in keys:
                move.move_key(key)
        move.end()

    def _kill(self, primary: str) -> None:
        self._services.kill(primary)
        self._cluster.wait_until_replaced(primary)
        self._services.restart(primary)

    def _fail_over(self, primary: str) -> None:
        [replica] = self._cluster.replicas_of(primary)
        self._cluster.failover(replica)

    def _hold_still(self, primary: str) -> None:
        self._services.stop(primary)
        self._cluster.wait_until_replaced(primary)
        self._services.resume(primary)
