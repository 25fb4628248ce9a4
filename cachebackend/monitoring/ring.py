"""A cache alias: its nodes, and what all processes counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from cachebackend.backend import ring_cache
from cachebackend.counters import Counts
from cachebackend.monitoring.cluster_slots import empty_notes, unserved_faults
from cachebackend.monitoring.faults import Fault, alias_scope
from cachebackend.monitoring.formatting import listed
from cachebackend.monitoring.nodes import NodeFigures, eviction_note, node_figures, refusal_faults
from cachebackend.monitoring.registry import registry_faults
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.monitoring.window import MINUTES, RECENT_MINUTES, recent_seconds, total_of, without_lost
from cachebackend.telemetry.periods import HOUR, Period
from cachebackend.telemetry.publisher import counts_by_step, lost_steps, publish_counts

__all__ = ["AliasFigures", "alias_figures", "hit_ratio", "low_sums", "step_counts"]


@dataclass(frozen=True, slots=True)
class AliasFigures:
    """One cache alias.

    Attributes:
        alias: Its name.
        nodes: Its nodes: those of the ring in its order, then the others.
        minutes: Counts of all processes, by minute since 1970, the oldest first; None for a minute that no
            node returned, or whose counts were lost.
        hour: The sum of those minutes; None if none is known.
        recent: The sum of the most recent of them; None if none is known.
        recent_seconds: The length of those most recent minutes until now, in seconds.
        faults: What is wrong beside nodes that are down, and what is worth knowing.
    """

    alias: str
    nodes: list[NodeFigures]
    minutes: dict[int, Counts | None]
    hour: Counts | None
    recent: Counts | None
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
    def low_sums(self) -> str:
        """Why the sums may be lower than what was counted, in a sentence; empty: they are not."""
        return low_sums([node.name for node in self.ring_nodes if not node.is_up])

    @property
    def gets_per_second(self) -> float | None:
        """Keys read per second in the recent minutes; None if that is not known."""
        if self.recent is None:
            return None
        return (self.recent.hits + self.recent.misses) / self.recent_seconds


def hit_ratio(counts: Counts | None) -> float | None:
    """Return the share of reads that were hits, 0 to 1; None if nothing was read, or if that is not known."""
    if counts is None:
        return None
    reads = counts.hits + counts.misses
    return counts.hits / reads if reads else None


def low_sums(missing: Sequence[str]) -> str:
    """Return why sums may be too low, as a sentence, by the names of the nodes that do not answer."""
    if not missing:
        return ""
    do = "do" if len(missing) > 1 else "does"
    return f"At least: some counts are on {listed(missing)}, which {do} not answer."


def alias_figures(alias: str) -> AliasFigures:
    """Return the figures of an alias, this process' latest counts included."""
    publish_counts(alias)
    client = ring_cache(alias).client
    nodes = node_figures(client)
    owner, scope = repr(alias), alias_scope(alias)
    faults = [*unserved_faults(owner, client.clusters, scope), *empty_notes(owner, client.clusters, scope)]
    faults += refusal_faults(alias, nodes)
    faults += [eviction_note(alias, node) for node in nodes if node.evicts_unusually]
    minutes = counts_by_step(alias, HOUR, MINUTES)
    if missing := list(minutes.values()).count(None):
        what = f"The counts of {missing} of {MINUTES} minutes of {alias!r} cannot be read"
        message = f"{what}; the sums do not include them."
        faults.append(Fault(FaultKind.COUNTS_UNREADABLE, message, scope=alias_scope(alias)))
    minutes = without_lost(minutes, partial(lost_steps, alias, HOUR))
    counts = list(minutes.values())
    hour, recent = total_of(counts), total_of(counts[-RECENT_MINUTES:])
    faults += registry_faults(alias)
    return AliasFigures(alias, nodes, minutes, hour, recent, recent_seconds(), faults)


def step_counts(alias: str, period: Period) -> list[Counts | None]:
    """Return the counts of all processes in each step of a period, the oldest first; None if not known."""
    return list(without_lost(counts_by_step(alias, period), partial(lost_steps, alias, period)).values())
