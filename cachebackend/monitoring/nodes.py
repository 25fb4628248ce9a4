"""The nodes of a cache alias: what each reports about itself, and how this process sees it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from cachebackend import protocol
from cachebackend.client import RingClient
from cachebackend.cluster import ShardNode
from cachebackend.errors import RingCacheError
from cachebackend.monitoring.cluster_slots import read_slots
from cachebackend.monitoring.evictions import Evictions, evictions_of
from cachebackend.monitoring.faults import Fault, node_scope
from cachebackend.monitoring.formatting import memory, moment
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.node import Node
from cachebackend.node.breaker import EJECTED, REPLAYING, UP
from cachebackend.writebehind.node_health import NodeHealth

__all__ = [
    "NodeFigures",
    "eviction_note",
    "node_figures",
    "refusal_faults",
    "seen_by",
    "states_with_replay",
]

DOWN = "down"


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """One node.

    Attributes:
        name: The node's name.
        share: Its share of the slots, 0 to 1; 0 for a node that owns none.
        state: ``up``; ``replaying``, when this process replays missed deletes to it; ``down``, when this
            process has ejected it, or it did not answer just now.
        since: When this state began, in seconds since 1970; None: when this process started, or just now.
        error: Why it is not up.
        ping_seconds: How long a PING took; None if it was not answered.
        info: The reply to ``INFO``, by field name; empty if it was not answered.
        role: ``ring``, ``joining``, ``leaving`` or ``gutter``.
        index: Its index among the client's nodes.
        address: Its host and port, or its socket, without user and password.
        probe_in: Seconds until this process tries it again; None: it is up.
        evictions: How many keys it evicts; None if that is not known.
        slots: How many slots it owns in its cluster; None: it is not a cluster's, or that is not known.
        replicas: The names of its replicas that the cluster believes to work.
    """

    name: str
    share: float
    state: str
    since: float | None
    error: str
    ping_seconds: float | None
    info: dict[str, str]
    role: str = "ring"
    index: int = 0
    evictions: Evictions | None = None
    address: str = ""
    probe_in: float | None = None
    slots: int | None = None
    replicas: tuple[str, ...] = ()

    @property
    def is_up(self) -> bool:
        """Whether it answers, and serves reads."""
        return self.state == UP

    @property
    def since_text(self) -> str:
        """When its state began, as text; empty if that is not known."""
        return "" if self.since is None else moment(self.since)

    @property
    def ping_ms(self) -> float | None:
        """How long a PING took, in milliseconds."""
        return None if self.ping_seconds is None else 1000 * self.ping_seconds

    @property
    def memory_percent(self) -> float | None:
        """How much of ``maxmemory`` is used, 0 to 100; None if there is no limit, or it is not known."""
        limit, used = self.number("maxmemory"), self.number("used_memory")
        return 100 * used / limit if used is not None and limit is not None and limit > 0 else None

    @property
    def server(self) -> str:
        """The server software and its version."""
        if "valkey_version" in self.info:
            return f"Valkey {self.info['valkey_version']}"
        return f"Redis {self.info['redis_version']}" if "redis_version" in self.info else ""

    @property
    def keys(self) -> int | None:
        """How many keys it holds, in all databases; None if that is not known."""
        databases = [value for name, value in self.info.items() if name.startswith("db") and "keys=" in value]
        numbers = [
            protocol.telemetry.number_of({"keys": value.partition("keys=")[2].partition(",")[0]}, "keys")
            for value in databases
        ]
        return None if None in numbers else sum(number or 0 for number in numbers)

    @property
    def evicted(self) -> int | None:
        """How many keys it has evicted since it was started; None if that is not known."""
        return self.number("evicted_keys")

    @property
    def evicts_unusually(self) -> bool:
        """Whether it evicts many more keys than usual."""
        return self.evictions is not None and self.evictions.are_unusual

    @property
    def refusal(self) -> str | None:
        """Why it refuses writes although it answers, or soon will; None if it does not."""
        if self.info.get("role") == "slave" and not self.number("cluster_enabled"):
            server = f"{self.info.get('master_host')}:{self.info.get('master_port')}"
            return f"is a replica of {server}, so it refuses writes"
        health = NodeHealth.of(self.info)
        if health.aof_status == "err":
            return health.disk_faults[0]
        return health.memory_fault if self.info.get("maxmemory_policy") == "noeviction" else None

    @property
    def memory_text(self) -> str:
        """Its memory and the limit of that, as text; empty if they are not known."""
        return memory(self.number("used_memory"), self.number("maxmemory"))

    @property
    def hit_percent(self) -> float | None:
        """The server's own hit ratio, 0 to 100, over all its clients since it was started."""
        hits, misses = self.number("keyspace_hits"), self.number("keyspace_misses")
        return (
            100 * hits / (hits + misses)
            if hits is not None and misses is not None and hits + misses > 0
            else None
        )

    def number(self, name: str) -> int | None:
        """Return the integer in a field of ``info``; None if it is missing or is not an integer."""
        return protocol.telemetry.number_of(self.info, name)


def node_figures(client: RingClient) -> list[NodeFigures]:
    """Return the figures of each node of an alias: first those of the ring in its order, then the others.

    Asks every node at once, and waits for no node longer than its timeout.
    """
    indexes = client.indexes
    of_ring = set(client.ring.nodes)
    for index in indexes:
        client.nodes[index].probe_early()  # a person looks: the next look shows that it is back
    indexes = sorted(indexes, key=lambda index: index not in of_ring)
    infos = client.run(protocol.telemetry.node_infos(client.context, indexes))
    read_slots(client.clusters, infos, with_empty=True)
    shares = client.ring.shares()
    figures = [
        _figures(
            client.nodes[index],
            info,
            index=index,
            share=shares[index] / (sum(shares) or 1) if index in of_ring else 0.0,
            role="ring" if index in of_ring else _role(client, index),
        )
        for index, info in zip(indexes, infos, strict=True)
    ]
    return [_of_shard(client, each) for each in figures]


def _of_shard(client: RingClient, figures: NodeFigures) -> NodeFigures:
    """Return the figures of a node, with address, slots and replicas if it is a shard.

    The endpoint of a shard names the whole cluster, and not an address at which a server could be started. A
    shard that was not read yet has the addresses of the URL as its name.
    """
    node = client.nodes[figures.index]
    if not isinstance(node, ShardNode):
        return figures
    if node.server is None:
        return replace(figures, address=node.name.removesuffix("/cluster"))
    if client.cluster is not None and not client.cluster.is_loaded:
        return figures
    slots = client.ring.shares()[figures.index] if figures.role == "ring" else None
    replicas = tuple(server.name for server in node.replicas)
    return replace(figures, slots=slots, replicas=replicas, address=node.server.name)


def refusal_faults(alias: str, nodes: Sequence[NodeFigures]) -> list[Fault]:
    """Return a fault for each node that answers, and refuses writes or soon will."""
    refusals = [(node, node.refusal) for node in nodes if node.is_up]
    return [
        Fault(
            FaultKind.NODE_REFUSES_WRITES,
            f"Node {node.name} of {alias!r} {text}.",
            scope=node_scope(alias, node.name),
        )
        for node, text in refusals
        if text
    ]


def eviction_note(alias: str, node: NodeFigures) -> Fault:
    """Return the note about a node that evicts many more keys than usual."""
    assert node.evictions is not None  # noqa: S101  # the caller has checked it
    rate, usual = node.evictions
    message = (
        f"Node {node.name} of {alias!r} evicts {rate:,.0f} keys a second, usually {usual:,.1f}; its memory "
        f"is {node.memory_text}."
    )
    return Fault(FaultKind.EVICTIONS, message, is_note=True)


def seen_by() -> str:
    """Return which process sees the nodes so: each process has its own connections, and its own breakers."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def states_with_replay(nodes: Sequence[NodeFigures], replaying: Collection[str]) -> list[str]:
    """Return the state of each node; one that answers is ``replaying`` while a process replays deletes to it.

    A process that has just started, such as a command, has a breaker that knows nothing yet. Deletes that
    are pending for a node do not mean that it is unwell: perhaps no relay runs.

    Args:
        nodes: The nodes of an alias.
        replaying: The names of those to which a process replays deletes.
    """
    return [REPLAYING if node.is_up and node.name in replaying else node.state for node in nodes]


def _figures(
    node: Node, info: dict[str, str] | RingCacheError, *, index: int, share: float, role: str
) -> NodeFigures:
    error = info if isinstance(info, RingCacheError) else None
    ping_seconds = None
    if error is None:
        error, ping_seconds = _ping(node)
    state, since, reason = (DOWN, None, str(error)) if error else (UP, None, "")
    if node.breaker is not None:
        known = node.breaker.state
        if known.state == state:
            since = known.since
        elif known.state != UP:
            state, since, reason = known.state, known.since, known.error
    state = DOWN if state == EJECTED else state
    probe_in = None if node.breaker is None else node.breaker.seconds_to_probe
    fields = {} if isinstance(info, RingCacheError) else info
    evictions = evictions_of(fields)
    return NodeFigures(
        node.name,
        share,
        state,
        since,
        reason,
        ping_seconds,
        fields,
        role,
        index,
        evictions,
        node.endpoint.removesuffix("/0"),
        probe_in,
    )


def _ping(node: Node) -> tuple[RingCacheError | None, float | None]:
    """Return the error of a PING, or how many seconds its reply took."""
    begun = time.perf_counter()
    reply = node.call((b"PING",))
    seconds = time.perf_counter() - begun
    return (reply, None) if isinstance(reply, RingCacheError) else (None, seconds)


def _role(client: RingClient, index: int) -> str:
    """Return why a node that owns no slots is there."""
    change = client.context.ring_change
    if change is None or index not in change.nodes:
        return "gutter"
    return "leaving" if change.is_old else "joining"
