"""A cache alias: its nodes, and what all processes counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cachebackend.backend import ring_cache
from cachebackend.counters import Counts
from cachebackend.monitoring.faults import Fault
from cachebackend.monitoring.nodes import NodeFigures, node_fault, node_figures
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.monitoring.window import MINUTES, RECENT_MINUTES, recent_seconds
from cachebackend.telemetry.publisher import counts_by_minute, publish_counts

__all__ = ["AliasFigures", "alias_figures", "hit_ratio"]


@dataclass(frozen=True, slots=True)
class AliasFigures:
    """One cache alias.

    Attributes:
        alias: Its name.
        nodes: Its nodes: those of the ring in its order, then the others.
        minutes: Counts of all processes, by minute since 1970, the oldest first; None for a minute
            that no node returned.
        hour: The sum of those minutes.
        recent: The sum of the most recent of them.
        recent_seconds: The length of those most recent minutes until now, in seconds.
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
    def ring_nodes(self) -> list[NodeFigures]:
        """The nodes that own slots."""
        return [node for node in self.nodes if node.role == "ring"]

    @property
    def nodes_up(self) -> int:
        """How many of those answer."""
        return sum(node.is_up for node in self.ring_nodes)

    @property
    def gets_per_second(self) -> float:
        """Keys read per second in the recent minutes."""
        return (self.recent.hits + self.recent.misses) / self.recent_seconds


def hit_ratio(counts: Counts) -> float | None:
    """Return the share of reads that were hits, 0 to 1; None if nothing was read."""
    reads = counts.hits + counts.misses
    return counts.hits / reads if reads else None


def alias_figures(alias: str) -> AliasFigures:
    """Return the figures of an alias, this process' latest counts included."""
    publish_counts(alias)
    nodes = node_figures(ring_cache(alias).client)
    faults = [node_fault(alias, node) for node in nodes if not node.is_up]
    minutes = counts_by_minute(alias, MINUTES)
    counts = list(minutes.values())
    if missing := counts.count(None):
        what = f"The counts of {missing} of {MINUTES} minutes of {alias!r} cannot be read"
        fault = Fault(FaultKind.COUNTS_UNREADABLE, f"{what}; the sums do not include them.")
        faults.append(fault)
    return AliasFigures(
        alias, nodes, minutes, _sum(counts), _sum(counts[-RECENT_MINUTES:]), recent_seconds(), faults
    )


def _sum(minutes: Iterable[Counts | None]) -> Counts:
    total = Counts()
    for counts in filter(None, minutes):
        total.add(counts)
    return total
