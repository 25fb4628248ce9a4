"""The queue nodes of write-behind: whether each answers, and whether it can take writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cachebackend import protocol
from cachebackend.errors import RingCacheError
from cachebackend.monitoring.faults import Fault
from cachebackend.monitoring.formatting import size
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.writebehind.node_faults import settings_faults
from cachebackend.writebehind.node_health import NodeHealth
from cachebackend.writebehind.queue import monitoring_queue

__all__ = ["QueueNodeFigures", "queue_node_faults", "queue_node_figures"]


@dataclass(frozen=True, slots=True)
class QueueNodeFigures:
    """One queue node.

    Attributes:
        name: The node's name.
        error: Why it does not answer; empty if it does.
        since: When this process ejected it, in seconds since 1970; None if it did not.
        health: Its memory and files; unknown if it does not answer.
    """

    name: str
    error: str = ""
    since: float | None = None
    health: NodeHealth = field(default_factory=NodeHealth)

    @property
    def is_up(self) -> bool:
        """Whether it answers."""
        return not self.error

    @property
    def memory_text(self) -> str:
        """Its memory and the limit of that, as text; empty if they are not known."""
        used, limit = self.health.used_bytes, self.health.max_bytes
        if used is None:
            return ""
        return f"{size(used)} of {size(limit)}" if limit else f"{size(used)}, no limit"

    @property
    def file_text(self) -> str:
        """Whether its append-only file is written, as text; empty if that is not known."""
        texts = {"ok": "file written", "err": "file not written", "off": "no file"}
        return texts.get(self.health.aof_status or "", "")


def queue_node_figures() -> list[QueueNodeFigures]:
    """Return the figures of each queue node, in one round trip."""
    client = monitoring_queue()
    figures = []
    infos = client.run(protocol.node_infos(client.context, client.context.nodes))
    for node, info in zip(client.nodes, infos, strict=True):
        if isinstance(info, RingCacheError):
            known = None if node.breaker is None else node.breaker.state
            error, since = (
                (known.error, known.since) if known is not None and known.error else (str(info), None)
            )
            figures.append(QueueNodeFigures(node.name, error, since))
        else:
            figures.append(QueueNodeFigures(node.name, health=NodeHealth.of(info)))
    return figures


def queue_node_faults(nodes: Sequence[QueueNodeFigures]) -> Iterator[Fault]:
    """Yield what is wrong with queue nodes: which do not answer or take no writes, and their settings."""
    for node in nodes:
        if not node.is_up:
            yield Fault(
                FaultKind.QUEUE_NODE_DOWN, f"Queue node {node.name} does not answer: {node.error}", node.since
            )
        for text in node.health.disk_faults:
            yield Fault(FaultKind.QUEUE_NODE_DISK, f"Queue node {node.name} {text}.")
        if memory := node.health.memory_fault:
            yield Fault(FaultKind.QUEUE_NODE_FULL, f"Queue node {node.name} {memory}.")
    up = [index for index, node in enumerate(nodes) if node.is_up]
    for fault in settings_faults(monitoring_queue(), up):
        yield Fault(FaultKind.QUEUE_SETTINGS, fault)
