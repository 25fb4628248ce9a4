"""The metrics of the nodes of the ring, and of the queue nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from cachebackend.monitoring import AliasFigures, NodeFigures, QueueFigures
from cachebackend.monitoring.queue_nodes import QueueNodeFigures

__all__ = ["node_metrics", "queue_node_metrics"]

#: The metrics of a node: the class of the metric, its name, its meaning, and its value, None if not known.
_NODE_METRICS: tuple[
    tuple[type[GaugeMetricFamily | CounterMetricFamily], str, str, Callable[[NodeFigures], float | None]], ...
] = (
    (
        GaugeMetricFamily,
        "up",
        "Whether the node serves reads of the process that is scraped.",
        lambda node: node.is_up,
    ),
    (
        GaugeMetricFamily,
        "uptime_seconds",
        "For how long the node has run; it falls when the node is restarted.",
        lambda node: node.number("uptime_in_seconds"),
    ),
    (GaugeMetricFamily, "keys", "Keys on the node.", lambda node: node.keys if node.info else None),
    (GaugeMetricFamily, "memory_bytes", "Memory of the node.", lambda node: node.number("used_memory")),
    (
        GaugeMetricFamily,
        "max_memory_bytes",
        "The limit of the node's memory; 0: none.",
        lambda node: node.number("maxmemory"),
    ),
    (
        CounterMetricFamily,
        "evicted_keys",
        "Keys that the node evicted since it was started.",
        lambda node: node.evicted,
    ),
    (
        CounterMetricFamily,
        "received_bytes",
        "Bytes that the node received since it was started.",
        lambda node: node.number("total_net_input_bytes"),
    ),
    (
        CounterMetricFamily,
        "sent_bytes",
        "Bytes that the node sent since it was started.",
        lambda node: node.number("total_net_output_bytes"),
    ),
)
#: The metrics of a queue node, all of them gauges: name, meaning and value.
_QUEUE_NODE_METRICS: tuple[tuple[str, str, Callable[[QueueNodeFigures], float | None]], ...] = (
    ("up", "Whether the queue node answers the process that is scraped.", lambda node: node.is_up),
    (
        "uptime_seconds",
        "For how long the queue node has run; it falls when the node is restarted.",
        lambda node: node.health.uptime_seconds,
    ),
    (
        "memory_bytes",
        "Memory of the queue node that counts against its limit.",
        lambda node: node.health.used_bytes,
    ),
    (
        "max_memory_bytes",
        "The limit of the queue node's memory; 0: none.",
        lambda node: node.health.max_bytes,
    ),
    (
        "file_written",
        "Whether the last write to its append-only file succeeded; no sample without such a file.",
        lambda node: _is_written(node.health.aof_status),
    ),
    (
        "snapshot_written",
        "Whether its last snapshot succeeded.",
        lambda node: _is_written(node.health.save_status),
    ),
)


def node_metrics(figures: Sequence[AliasFigures]) -> Iterator[Metric]:
    """Yield whether each node answers, for how long it has run, its keys, memory and traffic."""
    metrics = [
        kind(f"ringcache_node_{name}", meaning, labels=["alias", "node"])
        for kind, name, meaning, _ in _NODE_METRICS
    ]
    for each in figures:
        for node in each.nodes:
            for metric, (*_, read) in zip(metrics, _NODE_METRICS, strict=True):
                if (value := read(node)) is not None:
                    metric.add_metric([each.alias, node.name], float(value))
    yield from metrics


def queue_node_metrics(queues: QueueFigures) -> Iterator[Metric]:
    """Yield whether each queue node answers, its memory, and whether it can write its files."""
    for name, meaning, read in _QUEUE_NODE_METRICS:
        metric = GaugeMetricFamily(f"ringcache_queue_node_{name}", meaning, labels=["node"])
        for node in queues.nodes:
            if (value := read(node)) is not None:
                metric.add_metric([node.name], float(value))
        yield metric


def _is_written(status: str | None) -> bool | None:
    return None if status in {None, "off"} else status != "err"
