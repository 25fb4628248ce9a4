"""A cache alias: its nodes, as they say themselves, and what all processes counted."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from cachebackend import protocol
from cachebackend.backend import ring_cache
from cachebackend.client import RingClient
from cachebackend.counters import Counts
from cachebackend.errors import RingCacheError
from cachebackend.monitoring.faults import Fault
from cachebackend.monitoring.formatting import moment
from cachebackend.node.breaker import REPLAYING, UP
from cachebackend.options import RingOptions
from cachebackend.telemetry.publisher import counts_by_minute, publish_counts

__all__ = ["MINUTES", "RECENT_MINUTES", "AliasFigures", "NodeFigures", "alias_figures", "hit_ratio"]

#: Minutes that the charts show, and those that are called recent; the present one is the last of both.
MINUTES, RECENT_MINUTES = 60, 5


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """A node, as it says itself and as this process sees it.

    Attributes:
        name: Its name.
        share: Its share of the slots, 0 to 1; 0 for one that is not of the ring.
        state: ``up``, ``ejected`` or ``replaying`` for this process; ``down`` if it was asked
            just now in vain.
        since: When that began, in seconds since 1970; None: with this process, or just now.
        error: Why it is not up.
        milliseconds: What a PING took.
        info: What it says of itself, by the names of ``INFO``.
        role: ``ring``, ``joining``, ``leaving`` or ``gutter``.
    """

    name: str
    share: float
    state: str
    since: float | None
    error: str
    milliseconds: float | None
    info: dict[str, str]
    role: str = "ring"

    @property
    def is_well(self) -> bool:
        """Whether it answers."""
        return self.state == UP

    @property
    def when(self) -> str:
        """When its state began, in words; empty if that is not known."""
        return "" if self.since is None else moment(self.since)

    @property
    def memory_percent(self) -> float | None:
        """How full it is, 0 to 100; None if it has no bound, or does not say."""
        most = int(self.info.get("maxmemory", 0))
        return 100 * int(self.info.get("used_memory", 0)) / most if most else None

    @property
    def version(self) -> str:
        """The server and its version."""
        if "valkey_version" in self.info:
            return f"Valkey {self.info['valkey_version']}"
        return f"Redis {self.info['redis_version']}" if "redis_version" in self.info else ""

    @property
    def keys(self) -> int:
        """How many keys it holds, in all databases."""
        databases = [value for name, value in self.info.items() if name.startswith("db") and "keys=" in value]
        return sum(int(value.partition("keys=")[2].partition(",")[0]) for value in databases)

    @property
    def hit_percent(self) -> float | None:
        """The server's own, 0 to 100, of all its clients since it was started."""
        hits, misses = int(self.info.get("keyspace_hits", 0)), int(self.info.get("keyspace_misses", 0))
        return 100 * hits / (hits + misses) if hits + misses else None


@dataclass(frozen=True, slots=True)
class AliasFigures:
    """One cache alias.

    Attributes:
        alias: Its name.
        nodes: Its nodes: those of the ring in its order, then others.
        minutes: Counts of all processes, by minute since 1970, the oldest first; None for a minute
            that cannot be seen.
        hour: The sum of those that can.
        recent: The sum of the last few of them.
        recent_seconds: How long those few have lasted.
        faults: What is wrong.
    """

    alias: str
    nodes: list[NodeFigures]
    minutes: dict[int, Counts | None]
    hour: Counts
    recent: Counts
    recent_seconds: float
    faults: list[Fault]

    @property
    def of_ring(self) -> list[NodeFigures]:
        """The nodes that own slots."""
        return [node for node in self.nodes if node.role == "ring"]

    @property
    def up(self) -> int:
        """How many of those answer."""
        return sum(node.is_well for node in self.of_ring)

    @property
    def gets_per_second(self) -> float:
        """Keys asked for, recently."""
        return (self.recent.hits + self.recent.misses) / self.recent_seconds


def hit_ratio(counts: Counts) -> float | None:
    """Return the share of keys that were found, 0 to 1; None if none was asked for."""
    asked = counts.hits + counts.misses
    return counts.hits / asked if asked else None


def alias_figures(alias: str) -> AliasFigures:
    """Return what is known of an alias; a node that does not answer is said to be down."""
    client = ring_cache(alias).client
    publish_counts(alias)
    infos = client.run(protocol.node_infos(client.context, range(len(client.nodes))))
    nodes = [_node(client, at, info) for at, info in enumerate(infos)]
    faults = [_fault(alias, node) for node in nodes if not node.is_well]
    minutes = counts_by_minute(alias, MINUTES)
    if unseen := sum(counts is None for counts in minutes.values()):
        faults.append(
            Fault("counts", f"{unseen} of {MINUTES} minutes of {alias!r} cannot be seen; the sums lack them.")
        )
    seen = list(minutes.values())
    seconds = (RECENT_MINUTES - 1) * 60 + time.time() % 60
    return AliasFigures(alias, nodes, minutes, _sum(seen), _sum(seen[-RECENT_MINUTES:]), seconds, faults)


def _fault(alias: str, node: NodeFigures) -> Fault:
    what = "is told what it missed, and then let in" if node.state == REPLAYING else "does not answer"
    return Fault("nodes", f"Node {node.name} of {alias!r} {what}: {node.error}", node.since)


def _sum(minutes: Iterable[Counts | None]) -> Counts:
    total = Counts()
    for counts in filter(None, minutes):
        total.add(counts)
    return total


def _node(client: RingClient, at: int, info: dict[str, str] | RingCacheError) -> NodeFigures:
    node, shares = client.nodes[at], client.ring.shares()
    error = info if isinstance(info, RingCacheError) else None
    milliseconds = None
    if error is None:
        begun = time.perf_counter()
        answer = node.call((b"PING",))
        milliseconds = (time.perf_counter() - begun) * 1e3
        error = answer if isinstance(answer, RingCacheError) else None
    known = node.breaker.state if node.breaker else None
    state, why = ("down", str(error)) if error else (UP, "")
    if known is not None and known.state != UP:
        state, why = known.state, known.error
    return NodeFigures(
        name=node.name,
        share=shares[at] / sum(shares) if at < len(shares) else 0.0,
        state=state,
        since=known.since if known is not None and known.state == state else None,
        error=why,
        milliseconds=None if error else milliseconds,
        info={} if isinstance(info, RingCacheError) else info,
        role="ring" if at < len(shares) else _role(client.context.options, node.name),
    )


def _role(options: RingOptions, name: str) -> str:
    """Return what a node is there for that owns no slots."""
    roles = {"joining": options.joining, "leaving": options.leaving}
    return next((role for role, nodes in roles.items() if name in {node.name for node in nodes}), "gutter")
