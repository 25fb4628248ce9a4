"""Metrics for Prometheus. They sum all processes, so it is enough to scrape one of them.

``path("metrics/", cachebackend.prometheus.metrics)`` serves them to users who may view the ring
page, and to requests with ``Authorization: Bearer`` and ``settings.RINGCACHE_METRICS_TOKEN``.
``RingCollector`` is for a registry of your own. Needs the extra ``prometheus``.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.http import require_safe

from cachebackend.counters import Counts, DrainCounts
from cachebackend.histogram import Histogram
from cachebackend.monitoring import (
    AliasFigures,
    Fault,
    NodeFigures,
    OutboxFigures,
    ProcessFigures,
    QueryFigures,
    QueueFigures,
    WorkerFigures,
    site_figures,
    total_query_figures,
    try_to_read,
)
from cachebackend.monitoring.observer import observe
from cachebackend.monitoring.queue_nodes import QueueNodeFigures
from cachebackend.monitoring.reasons import Kind
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.query_counts import FormCounts
from cachebackend.telemetry.publisher import total_counts, total_drains

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.metrics_core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    message = "the metrics need prometheus-client: pip install 'django-ringcache[prometheus]'"
    raise ImportError(message) from error

__all__ = ["RingCollector", "metrics"]

_ATTRIBUTE = re.compile(r"^    (\w+): (.+?)(?=^    \w+: |\Z)", re.DOTALL | re.MULTILINE)
#: The upper bounds of a histogram's buckets: powers of two, from 64 µs to 34 s.
_BOUNDS_MICROS = tuple(2**power for power in range(6, 26))

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
#: The meanings of the counters of groups of keys.
_KEYS = {
    "hits": "About how many gets of a group of keys were hits; one get in 64 is counted.",
    "misses": "About how many gets of a group of keys were misses.",
    "loads": "Loads of values of a group of keys.",
}
#: The counters whose names are those of gauges.
_TOTALS = {"parked": "writes_parked"}


def _is_written(status: str | None) -> bool | None:
    return None if status in {None, "off"} else status != "err"


class RingCollector(Collector):
    """Yields the figures of the ring page for every ring cache; a figure that is unknown has no sample."""

    def collect(self) -> Iterator[Metric]:
        """Yield the counters of each alias, its nodes, and invalidation and write-behind."""
        site = site_figures()
        observe(site.faults)
        yield _faults(site.faults)
        yield from self._counters(site.aliases)
        yield from self._queries([total_query_figures(each.alias) for each in site.aliases])
        yield from self._nodes(site.aliases)
        yield from self._outbox(site.outbox)
        yield from self._queues(site.queues)
        yield from self._last_runs(site.worker)
        yield from _processes(site.processes, site.aliases)

    def _counters(self, figures: Sequence[AliasFigures]) -> Iterator[Metric]:
        read = {each.alias: try_to_read(partial(total_counts, each.alias)) for each in figures}
        totals = {alias: total.counts for alias, total in read.items() if not isinstance(total, str)}
        meanings = _meanings(Counts)
        for each in fields(Counts):
            values = {alias: getattr(total, each.name) for alias, total in totals.items()}
            if each.name.endswith("_times"):
                yield _histogram(each.name, meanings[each.name], values)
                continue
            metric = CounterMetricFamily(f"ringcache_{each.name}", meanings[each.name], labels=["alias"])
            for alias, value in values.items():
                metric.add_metric([alias], value)
            yield metric

    def _queries(self, figures: list[QueryFigures]) -> Iterator[Metric]:
        labels, meanings = ["alias", "model", "query"], _meanings(FormCounts)
        for name in ("hits", "misses", "loads", "load_seconds", "invalidations"):
            meaning = "The time of loads of query results." if name == "load_seconds" else meanings[name]
            metric = CounterMetricFamily(f"ringcache_query_{name}", meaning, labels=labels)
            for each in figures:
                for form in each.cached:
                    metric.add_metric([each.alias, form.model, form.text], getattr(form, name))
            yield metric
        for name in ("hits", "misses", "loads", "load_seconds"):
            meaning = "The time of loads of a group of keys." if name == "load_seconds" else _KEYS[name]
            metric = CounterMetricFamily(f"ringcache_key_{name}", meaning, labels=["alias", "keys"])
            for each in figures:
                for form in each.keys:
                    metric.add_metric([each.alias, form.model], getattr(form, name))
            yield metric
        plain = CounterMetricFamily(
            "ringcache_queries_not_cached", meanings["runs"], labels=["alias", "model", "reason"]
        )
        for each in figures:
            for plain_form in each.not_cached:
                plain.add_metric([each.alias, plain_form.model, plain_form.reason], plain_form.runs)
        yield plain

    def _nodes(self, figures: Sequence[AliasFigures]) -> Iterator[Metric]:
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

    def _outbox(self, outbox: OutboxFigures) -> Iterator[Metric]:
        yield _gauge(
            "outbox_up", "Whether the database of the outbox answers.", float(outbox.rows is not None)
        )
        yield _gauge("outbox_lag_seconds", "Age of the oldest pending delete.", outbox.lag)
        yield _gauge("outbox_rows", "Rows of the outbox.", outbox.rows)

    def _queues(self, queues: QueueFigures) -> Iterator[Metric]:
        if not queues.is_on:
            return
        yield from _queue_nodes(queues)
        yield _gauge("behind_waiting", "Changes that wait in the queues.", queues.waiting)
        yield _gauge(
            "behind_waiting_bytes", "Bytes of the changes that wait, with the names of fields.", queues.bytes
        )
        yield _gauge(
            "behind_oldest_seconds", "For how long the oldest change has waited.", queues.oldest_seconds
        )
        yield _gauge("behind_parked", "Writes that are parked because Postgres refused them.", queues.parked)
        yield _reasons(queues)
        drains = try_to_read(total_drains)
        if not isinstance(drains, str):
            yield from _writes(drains.counts)

    def _last_runs(self, worker: WorkerFigures) -> Iterator[Metric]:
        metric = GaugeMetricFamily(
            "ringcache_task_last_run_timestamp_seconds", "When a periodic task last ran.", labels=["task"]
        )
        for task, ran in (worker.last_runs or {}).items():
            metric.add_metric([task], ran)
        yield metric


def _faults(faults: Sequence[Fault]) -> Metric:
    """Return the number of faults of each kind, as the page shows them; 0 included."""
    metric = GaugeMetricFamily(
        "ringcache_faults", "Faults that the ring page shows, without their consequences.", labels=["kind"]
    )
    counted = Counter(fault.kind for fault in faults)
    for kind in FaultKind:
        metric.add_metric([kind], counted[kind])
    return metric


def _processes(figures: ProcessFigures, aliases: Sequence[AliasFigures]) -> Iterator[Metric]:
    """Yield how many processes there are, how many differ, and how many do not use each node."""
    if figures.processes is None:
        return
    meaning = "Processes of the site, by kind, version and a digest of the settings that must agree."
    processes = GaugeMetricFamily("ringcache_processes", meaning, labels=["kind", "version", "settings"])
    counted = Counter((each.kind, each.version, each.fingerprint) for each in figures.processes)
    for labels, number in sorted(counted.items()):
        processes.add_metric(labels, number)
    yield processes
    differing = {each.process.id for each in figures.differences}
    yield _gauge("processes_differing", "Processes whose settings differ from those of most.", len(differing))
    meaning = "Processes that do not use the node now, because it does not answer them."
    without = GaugeMetricFamily("ringcache_node_processes_without", meaning, labels=["alias", "node"])
    seen = Counter((view.alias, view.node) for process in figures.processes for view in process.views)
    for alias in aliases:
        for node in alias.nodes:
            without.add_metric([alias.alias, node.name], seen[alias.alias, node.name])
    yield without


def _queue_nodes(queues: QueueFigures) -> Iterator[Metric]:
    """Yield whether each queue node answers, its memory, and whether it can write its files."""
    for name, meaning, read in _QUEUE_NODE_METRICS:
        metric = GaugeMetricFamily(f"ringcache_queue_node_{name}", meaning, labels=["node"])
        for node in queues.nodes:
            if (value := read(node)) is not None:
                metric.add_metric([node.name], float(value))
        yield metric


def _writes(counts: DrainCounts) -> Iterator[Metric]:
    """Yield what became of writes, and the time of the drains."""
    meanings = _meanings(DrainCounts)
    for each in fields(DrainCounts):
        if each.name == "drain_times":
            yield _histogram(each.name, meanings[each.name], {"": counts.drain_times})
        else:
            name = _TOTALS.get(each.name, each.name)
            yield CounterMetricFamily(
                f"ringcache_behind_{name}", meanings[each.name], getattr(counts, each.name)
            )


def _reasons(queues: QueueFigures) -> Metric:
    """Return the number of partitions for each reason, 0 included: an alert needs the sample before."""
    metric = GaugeMetricFamily(
        "ringcache_behind_partitions",
        "Partitions whose queued writes do not reach the database.",
        labels=["reason"],
    )
    for kind in Kind:
        metric.add_metric([kind], len({each.partition for each in queues.reasons if each.kind is kind}))
    return metric


def _gauge(name: str, meaning: str, value: float | None) -> Metric:
    """Return a gauge; one without a sample if its value is unknown."""
    return GaugeMetricFamily(f"ringcache_{name}", meaning, value)


def _histogram(name: str, meaning: str, times_by_alias: Mapping[str, Histogram]) -> Metric:
    """Return a histogram for each alias; under the empty name, one without a label."""
    labels = [] if "" in times_by_alias else ["alias"]
    metric = HistogramMetricFamily(f"ringcache_{name.removesuffix('_times')}_seconds", meaning, labels=labels)
    for alias, times in times_by_alias.items():
        buckets = [(str(bound / 1_000_000), times.count_below(bound)) for bound in _BOUNDS_MICROS]
        buckets.append(("+Inf", times.count))
        metric.add_metric([alias] if alias else [], buckets, times.seconds)
    return metric


def _meanings(counts: type[Counts | DrainCounts | FormCounts]) -> dict[str, str]:
    """Return the meaning of each counter, from the docstring of its class."""
    text = inspect.cleandoc(counts.__doc__ or "")
    return {name: " ".join(meaning.split()) for name, meaning in _ATTRIBUTE.findall(text)}


@transaction.non_atomic_requests
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer a scrape; 403 to a user without the permission, and to a request without the token."""
    if not _may_see(request):
        return HttpResponse(
            "Log in as a user who may view the ring, or send the metrics token.\n", status=403
        )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RingCollector())
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(registry), content_type=content_type)


def _may_see(request: HttpRequest) -> bool:
    token = getattr(settings, "RINGCACHE_METRICS_TOKEN", None)
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if token and constant_time_compare(given, token):
        return True
    user = getattr(request, "user", None)
    return user is not None and user.is_active and user.has_perm("cachebackend.view_ring")
