"""A cluster of three primaries and three replicas: how it is formed, and what tests do to it.

``Services`` starts, kills, suspends and restarts the servers; the cluster is made of their names. Each
method that changes the cluster returns when every server has seen the change that runs and is not suspended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cacheproject.server import Server, ServiceError

__all__ = ["CLUSTER_SETTINGS", "SLOTS", "Cluster", "SlotMove", "bus_port"]

SLOTS = 16_384
#: How many of the servers are primaries at first; the others are replicas.
PRIMARIES = 3
#: Seconds that a change of the cluster may take until every server has seen it.
CHANGE_SECONDS = 60.0
#: A server that answers nothing for this time is failed over; then an election takes about a second.
NODE_TIMEOUT_SECONDS = 2.0
#: Replicas stay with their primary, so that a primary whose slots have moved away stays a primary.
CLUSTER_SETTINGS = (
    *("--cluster-enabled", "yes", "--cluster-node-timeout", str(int(NODE_TIMEOUT_SECONDS * 1000))),
    *("--cluster-allow-replica-migration", "no", "--repl-diskless-sync-delay", "0"),
)
_CHECK_SECONDS = 0.02


def bus_port(port: int) -> int:
    """Return the port on which the server at a port talks to the other servers of its cluster."""
    return port + 10_000 if port < 55_536 else port - 10_000


@dataclass(frozen=True, slots=True)
class _Member:
    """A server as the table of one server has it.

    Attributes:
        identity: The cluster's name for it.
        port: Its port.
        flags: Such as ``master``, ``slave``, ``fail?``, ``fail``.
        primary: The identity of the primary that it copies; ``-`` for a primary.
        slots: The slots that it serves; empty for a replica.
    """

    identity: str
    port: int
    flags: frozenset[str]
    primary: str
    slots: frozenset[int]


class Cluster:
    """The cluster that some servers form.

    Args:
        servers: The servers by name; the first three become primaries, the others their replicas in turn.
    """

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self._servers = servers
        self._clients: dict[str, redis.Redis] = {}
        self.names = list(servers)

    def form(self) -> None:
        """Join the servers, divide the slots among the primaries, and give each primary its replica.

        Raises:
            ServiceError: The cluster is not complete in time.
        """
        for number, name in enumerate(self.names, 1):
            self.ask(name, "CLUSTER", "SET-CONFIG-EPOCH", number)
            for other in self.names[: number - 1]:
                port = self.server(other).port
                self.ask(name, "CLUSTER", "MEET", "127.0.0.1", port, bus_port(port))
        bounds = [SLOTS * number // PRIMARIES for number in range(PRIMARIES + 1)]
        for number, name in enumerate(self.names[:PRIMARIES]):
            self.ask(name, "CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        self._wait("know all servers", self._is_joined)
        for number, name in enumerate(self.names[PRIMARIES:]):
            self.ask(name, "CLUSTER", "REPLICATE", self.identity(self.names[number % PRIMARIES]))
        self.wait_until_ok()

    # What it is now

    @property
    def url(self) -> str:
        """The URL of the cluster, with the addresses of three of its servers."""
        first = self._servers[self.names[0]]
        hosts = ",".join(f"127.0.0.1:{self.server(name).port}" for name in self.names[:PRIMARIES])
        return f"redis+cluster://:{first.password}@{hosts}"

    def server(self, name: str) -> Server:
        """Return a server: its port, its password, and whether it is running."""
        return self._servers[name]

    def identity(self, name: str) -> str:
        """Return the identity that a server has in the cluster, even if it is not running."""
        port = self.server(name).port
        return next(each.identity for each in self._table(self._running[0]) if each.port == port)

    def slot_of(self, key: str | bytes) -> int:
        """Return the slot of a key."""
        return int(self.ask(self._running[0], "CLUSTER", "KEYSLOT", key))

    def primary_of(self, slot: int) -> str:
        """Return the name of the server that serves a slot."""
        for name in self.primaries:
            if slot in self._member(name).slots:
                return name
        message = f"no server serves slot {slot}"
        raise KeyError(message)

    @property
    def primaries(self) -> list[str]:
        """The names of the running primaries."""
        return [name for name in self._running if "master" in self._member(name).flags]

    def replicas_of(self, primary: str) -> list[str]:
        """Return the names of the running replicas of a primary."""
        identity = self.identity(primary)
        return [name for name in self._running if self._member(name).primary == identity]

    def ask(self, name: str, *command: str | bytes | int) -> Any:
        """Return the reply of one server to a command.

        Raises:
            redis.RedisError: The server does not answer, or refuses the command.
        """
        if name not in self._clients:
            server = self._servers[name]
            # A server that was restarted has closed its connection; the command is sent over a new one
            retry = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
            self._clients[name] = redis.Redis(
                port=server.port, password=server.password, socket_timeout=10.0, retry=retry
            )
        return self._clients[name].execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py

    def close(self) -> None:
        """Close the connections to the servers."""
        while self._clients:
            self._clients.popitem()[1].close()

    # Changes

    def failover(self, replica: str) -> None:
        """Promote a replica; its primary, if it is running, becomes its replica without losing a write."""
        old = self._member(replica).primary
        [primary] = [name for name in self.names if self.identity(name) == old]
        may_answer = self.server(primary).may_answer
        self.ask(replica, "CLUSTER", "FAILOVER", *(() if may_answer else ("TAKEOVER",)))
        self.wait_until_replaced(primary)

    def wait_until_replaced(self, primary: str) -> None:
        """Return when another server serves the slots of a primary, according to every running server."""
        port = self.server(primary).port

        def is_replaced(name: str) -> bool:
            has_slots = any(each.port == port and each.slots for each in self._table(name))
            return not has_slots and self._is_ok(name)

        self._wait(f"replace {primary}", is_replaced)

    def move_slot(self, slot: int, target: str) -> SlotMove:
        """Return the move of a slot to another primary; nothing has been done yet."""
        return SlotMove(self, slot, self.primary_of(slot), target)

    def heal(self) -> None:
        """Close the slots that are open, remove all keys, and wait until the cluster is complete.

        The slots stay where they are. A test that killed or suspended a server starts it again first.
        """
        for name in self.primaries:
            for slot in self._open_slots(name):
                self.ask(name, "CLUSTER", "SETSLOT", slot, "STABLE")
        self.wait_until_ok()
        for name in self.primaries:
            self.ask(name, "FLUSHALL")

    def wait_until_ok(self) -> None:
        """Return when all servers run, agree on the owner of every slot, and each replica is connected.

        Raises:
            ServiceError: That is not so in time.
        """
        self._wait("be complete", self._is_complete, self.names)

    def wait_until_agreed(self, slot: int, primary: str) -> None:
        """Return when every running server has a primary as the owner of a slot."""
        port = self.server(primary).port

        def agrees(name: str) -> bool:
            return any(each.port == port and slot in each.slots for each in self._table(name))

        self._wait(f"have {primary} as the owner of slot {slot}", agrees)

    # The parts of the conditions

    @property
    def _running(self) -> list[str]:
        return [name for name, server in self._servers.items() if server.may_answer]

    def _is_joined(self, name: str) -> bool:
        table = self._table(name)
        return len(table) == len(self.names) and not any("handshake" in each.flags for each in table)

    def _is_ok(self, name: str) -> bool:
        return bool(b"cluster_state:ok" in self.ask(name, "CLUSTER", "INFO"))

    def _is_complete(self, name: str) -> bool:
        if not self._is_ok(name):
            return False
        table = self._table(name)
        is_failed = any(each.flags & {"fail", "fail?", "noaddr", "handshake"} for each in table)
        replicas = sum("slave" in each.flags for each in table)
        if is_failed or replicas != len(self.names) - PRIMARIES:
            return False
        role = self.ask(name, "ROLE")
        return bool(role[0] == b"master" or role[3] == b"connected")

    def _member(self, name: str) -> _Member:
        return next(each for each in self._table(name) if "myself" in each.flags)

    def _table(self, name: str) -> list[_Member]:
        lines = self.ask(name, "CLUSTER", "NODES").decode().splitlines()
        return [_member(line.split()) for line in lines]

    def _open_slots(self, name: str) -> list[int]:
        """Return the slots that a server imports or migrates."""
        lines = self.ask(name, "CLUSTER", "NODES").decode().splitlines()
        fields = [field for line in lines if "myself" in line for field in line.split()[8:]]
        return [int(field[1:].partition("-")[0]) for field in fields if field.startswith("[")]

    def _wait(self, what: str, condition: Callable[[str], bool], names: Iterable[str] | None = None) -> None:
        end = time.monotonic() + CHANGE_SECONDS
        for name in self._running if names is None else names:
            while not self._holds(condition, name):
                if time.monotonic() > end:
                    message = f"{name} of the cluster does not {what} after {CHANGE_SECONDS:g} seconds"
                    raise ServiceError(message)
                time.sleep(_CHECK_SECONDS)

    @staticmethod
    def _holds(condition: Callable[[str], bool], name: str) -> bool:
        try:
            return condition(name)
        except (redis.ConnectionError, redis.TimeoutError):
            return False  # it was started a moment ago


@dataclass(frozen=True, slots=True)
class SlotMove:
    """One slot on its way from a primary to another, in steps, so that a test can stop between any two.

    Attributes:
        cluster: The cluster.
        slot: The slot.
        source: The name of the primary that serves the slot.
        target: The name of the primary that will serve it.
    """

    cluster: Cluster
    slot: int
    source: str
    target: str

    def begin(self) -> None:
        """Open the slot: the source answers ASK for a key that it has not, and the target accepts ASKING."""
        for name, state, other in (
            (self.target, "IMPORTING", self.source),
            (self.source, "MIGRATING", self.target),
        ):
            self.cluster.ask(name, "CLUSTER", "SETSLOT", self.slot, state, self.cluster.identity(other))

    @property
    def keys(self) -> list[bytes]:
        """The keys of the slot that the source has."""
        found: list[bytes] = self.cluster.ask(self.source, "CLUSTER", "GETKEYSINSLOT", self.slot, 1_000_000)
        return found

    def move_key(self, key: bytes) -> None:
        """Move one key from the source to the target.

        If both have it, a former source has died before its replica knew that the key had moved.
        """
        server = self.cluster.server(self.target)
        address = ("127.0.0.1", server.port, "", 0, 10_000)
        login = () if server.password is None else ("AUTH", server.password)
        self.cluster.ask(self.source, "MIGRATE", *address, "REPLACE", *login, "KEYS", key)

    def end(self) -> None:
        """Make the target the owner of the slot."""
        identity = self.cluster.identity(self.target)
        primaries = self.cluster.primaries
        for name in sorted(primaries, key=[self.target, self.source].__contains__, reverse=True):
            self.cluster.ask(name, "CLUSTER", "SETSLOT", self.slot, "NODE", identity)
        self.cluster.wait_until_agreed(self.slot, self.target)

    def run(self) -> None:
        """Do all of it."""
        self.begin()
        for key in self.keys:
            self.move_key(key)
        self.end()


def _member(fields: list[str]) -> _Member:
    identity, address, flags, primary, *_ = fields
    port = int(address.partition("@")[0].rpartition(":")[2])
    return _Member(identity, port, frozenset(flags.split(",")), primary, _slots(fields[8:]))


def _slots(fields: list[str]) -> frozenset[int]:
    """Return the slots that a line of CLUSTER NODES lists; one that is moving has no other form."""
    ranges = [field.partition("-") for field in fields if not field.startswith("[")]
    return frozenset(slot for low, _, high in ranges for slot in range(int(low), int(high or low) + 1))
