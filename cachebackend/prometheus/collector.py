"""What is exported: the figures of the ring page, and the counters of all processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import partial

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cachebackend.counters import Counts, DrainCounts
from cachebackend.monitoring import (
    AliasFigures,
    Fault,
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
from cachebackend.monitoring.reasons import Kind
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.prometheus.families import gauge, histogram, meanings
from cachebackend.prometheus.nodes import node_metrics, queue_node_metrics
from cachebackend.query_counts import FormCounts
from cachebackend.telemetry.publisher import total_counts, total_drains

__all__ = ["RingCollector"]

#: The meanings of the counters of groups of keys.
_KEYS = {
    "hits": "About how many gets of a group of keys were hits; one get in 64 is counted.",
    "misses": "About how many gets of a group of keys were misses.",
    "loads": "Loads of values of a group of keys.",
}
#: The counters whose names are those of gauges.
_TOTALS = {"parked": "writes_parked"}


class RingCollector(Collector):
    """Yields the figures of the ring page for every ring cache; a figure that is unknown has no sample."""

    def collect(self) -> Iterator[Metric]:
        """Yield the counters of each alias, its nodes, and invalidation and write-behind."""
        site = site_figures()
        observe(site.faults)
        yield _faults(site.faults)
        yield from self._counters(site.aliases)
        yield from self._queries([total_query_figures(each.alias) for each in site.aliases])
        yield from node_metrics(site.aliases)
        yield from self._outbox(site.outbox)
        yield from self._queues(site.queues)
        yield from self._last_runs(site.worker)
        yield from _processes(site.processes, site.aliases)

    def _counters(self, figures: Sequence[AliasFigures]) -> Iterator[Metric]:
        read = {each.alias: try_to_read(partial(total_counts, each.alias)) for each in figures}
        totals = {alias: total.counts for alias, total in read.items() if not isinstance(total, str)}
        texts = meanings(Counts)
        for each in fields(Counts):
            values = {alias: getattr(total, each.name) for alias, total in totals.items()}
            if each.name.endswith("_times"):
                yield histogram(each.name, texts[each.name], values)
                continue
            metric = CounterMetricFamily(f"ringcache_{each.name}", texts[each.name], labels=["alias"])
            for alias, value in values.items():
                metric.add_metric([alias], value)
            yield metric

    def _queries(self, figures: list[QueryFigures]) -> Iterator[Metric]:
        labels, texts = ["alias", "model", "query"], meanings(FormCounts)
        for name in ("hits", "misses", "loads", "load_seconds", "invalidations"):
            meaning = "The time of loads of query results." if name == "load_seconds" else texts[name]
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
            "ringcache_queries_not_cached", texts["runs"], labels=["alias", "model", "reason"]
        )
        for each in figures:
            for plain_form in each.not_cached:
                plain.add_metric([each.alias, plain_form.model, plain_form.reason], plain_form.runs)
        yield plain

    def _outbox(self, outbox: OutboxFigures) -> Iterator[Metric]:
        yield gauge(
            "outbox_up", "Whether the database of the outbox answers.", float(outbox.rows is not None)
        )
        yield gauge("outbox_lag_seconds", "Age of the oldest pending delete.", outbox.lag)
        yield gauge("outbox_rows", "Rows of the outbox.", outbox.rows)

    def _queues(self, queues: QueueFigures) -> Iterator[Metric]:
        if not queues.is_on:
            return
        yield from queue_node_metrics(queues)
        yield gauge("behind_waiting", "Changes that wait in the queues.", queues.waiting)
        yield gauge(
            "behind_waiting_bytes", "Bytes of the changes that wait, with the names of fields.", queues.bytes
        )
        yield gauge(
            "behind_oldest_seconds", "For how long the oldest change has waited.", queues.oldest_seconds
        )
        yield gauge("behind_parked", "Writes that are parked because Postgres refused them.", queues.parked)
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
    yield gauge("processes_differing", "Processes whose settings differ from those of most.", len(differing))
    meaning = "Processes that do not use the node now, because it does not answer them."
    without = GaugeMetricFamily("ringcache_node_processes_without", meaning, labels=["alias", "node"])
    seen = Counter((view.alias, view.node) for process in figures.processes for view in process.views)
    for alias in aliases:
        for node in alias.nodes:
            without.add_metric([alias.alias, node.name], seen[alias.alias, node.name])
    yield without


def _writes(counts: DrainCounts) -> Iterator[Metric]:
    """Yield what became of writes, and the time of the drains."""
    texts = meanings(DrainCounts)
    for each in fields(DrainCounts):
        if each.name == "drain_times":
            yield histogram(each.name, texts[each.name], {"": counts.drain_times})
        else:
            name = _TOTALS.get(each.name, each.name)
            yield CounterMetricFamily(
                f"ringcache_behind_{name}", texts[each.name], getattr(counts, each.name)
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
