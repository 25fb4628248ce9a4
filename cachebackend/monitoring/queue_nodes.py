"""The queue nodes of write-behind: whether each answers, and whether it can take writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cachebackend import protocol
from cachebackend.cluster import SlotNode
from cachebackend.errors import RingCacheError
from cachebackend.monitoring.cluster_slots import read_slots, unserved_faults
from cachebackend.monitoring.faults import Fault, node_scope
from cachebackend.monitoring.formatting import memory
from cachebackend.monitoring.node_faults import down_text
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.telemetry.agreed_settings import QUEUE
from cachebackend.writebehind.node_faults import settings_faults
from cachebackend.writebehind.node_health import NodeHealth
from cachebackend.writebehind.queue import monitoring_queue
from cachebackend.writebehind.status import PartitionStatus

__all__ = ["QueueNodeFigures", "queue_node_faults", "queue_node_figures", "unserved_parts"]


@dataclass(frozen=True, slots=True)
class QueueNodeFigures:
    """One server of the queue: a node, or a primary of a cluster.

    Attributes:
        name: The node's name; of a primary its host and port.
        error: Why it does not answer; empty if it does.
        since: When this process ejected it, in seconds since 1970; None if it did not.
        health: Its memory and files; unknown if it does not answer.
        parts: The names of the parts of the queue on it, if it is a primary of a cluster.
        address: Its host and port, or its socket, without user and password.
    """

    name: str
    error: str = ""
    since: float | None = None
    health: NodeHealth = field(default_factory=NodeHealth)
    parts: Sequence[str] = ()
    address: str = ""

    @property
    def names(self) -> Sequence[str]:
        """Its name, and those of its parts: a partition names one of them."""
        return [self.name, *self.parts]

    @property
    def is_up(self) -> bool:
        """Whether it answers."""
        return not self.error

    @property
    def memory_text(self) -> str:
        """Its memory and the limit of that, as text; empty if they are not known."""
        return memory(self.health.used_bytes, self.health.max_bytes)

    @property
    def file_text(self) -> str:
        """Whether its append-only file is written, as text; empty if that is not known."""
        texts = {"ok": "file written", "err": "file not written", "off": "no file"}
        return texts.get(self.health.aof_status or "", "")


def queue_node_figures() -> list[QueueNodeFigures]:
    """Return the figures of each queue node, in one round trip."""
    client = monitoring_queue()
    figures = []
    servers = client.servers()
    infos = client.run(
        protocol.telemetry.node_infos(client.context, [index for index, *_ in servers.values()])
    )
    read_slots([] if client.cluster is None else [client.cluster], infos)
    for (name, indexes), info in zip(servers.items(), infos, strict=True):
        parts = [] if client.cluster is None else [client.nodes[index].name for index in indexes]
        address = name if parts else client.nodes[indexes[0]].endpoint.removesuffix("/0")
        if isinstance(info, RingCacheError):
            breaker = client.nodes[indexes[0]].breaker
            known = None if breaker is None else breaker.state
            error, since = (
                (known.error, known.since) if known is not None and known.error else (str(info), None)
            )
            figures.append(QueueNodeFigures(name, error, since, parts=parts, address=address))
        else:
            figures.append(QueueNodeFigures(name, health=NodeHealth.of(info), parts=parts, address=address))
    return figures


def unserved_parts() -> set[str]:
    """Return the names of the parts of the queue whose slot no server has: one fault of the cluster."""
    nodes = monitoring_queue().nodes
    return {node.name for node in nodes if isinstance(node, SlotNode) and not node.is_served}


def queue_node_faults(
    nodes: Sequence[QueueNodeFigures], partitions: Sequence[PartitionStatus] = ()
) -> Iterator[Fault]:
    """Yield what is wrong with queue nodes: which do not answer or take no writes, and their settings.

    Args:
        nodes: The queue nodes.
        partitions: The partitions, as far as the caller knows them.
    """
    for node in nodes:
        scope = node_scope(QUEUE, *node.names)
        if not node.is_up:
            message = down_text(f"Queue node {node.name} ({node.address})", node.name, node.error)
            yield Fault(FaultKind.QUEUE_NODE_DOWN, message, node.since, scope=scope)
        for text in node.health.disk_faults:
            yield Fault(FaultKind.QUEUE_NODE_DISK, f"Queue node {node.name} {text}.", scope=scope)
        if memory := node.health.memory_fault:
            queued = [each.fields for each in partitions if each.node in node.names]
            is_empty = bool(queued) and not any(fields is None or fields for fields in queued)
            advice = "The queue is empty, so the limit is too small: raise `maxmemory`." if is_empty else ""
            message = f"Queue node {node.name} {memory}."
            yield Fault(FaultKind.QUEUE_NODE_FULL, message, advice=advice, scope=scope)
    client = monitoring_queue()
    if client.cluster is not None:
        yield from unserved_faults("write-behind", [client.cluster], node_scope(QUEUE, *unserved_parts()))
    up = {node.name for node in nodes if node.is_up}
    indexes = [index for name, (index, *_) in client.servers().items() if name in up]
    for fault in settings_faults(client, indexes):
        yield Fault(FaultKind.QUEUE_SETTINGS, fault)
