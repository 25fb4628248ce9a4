"""Figures for Prometheus: of all processes together, so any one of them may be scraped.

``path("metrics/", cachebackend.prometheus.metrics)`` serves them to users who may see the ring
page, and to whoever sends ``Authorization: Bearer`` with ``settings.RINGCACHE_METRICS_TOKEN``.
``RingCollector`` is for a registry of your own. Needs the extra ``prometheus``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cachebackend.admin.figures import AliasFigures, alias_figures, queue_figures
from cachebackend.backend.counting import counts_in_all
from cachebackend.conf import ring_aliases
from cachebackend.errors import RingCacheError
from cachebackend.stats import Counts

__all__ = ["RingCollector", "metrics"]

_ATTRIBUTE = re.compile(r"^    (\w+): (.+?)(?=^    \w+: |\Z)", re.DOTALL | re.MULTILINE)
#: What each counter is, as ``Counts`` says it.
_MEANINGS = {
    name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(inspect.cleandoc(Counts.__doc__ or ""))
}


class RingCollector(Collector):
    """Yields what the ring page shows, for every ring cache of the project."""

    def collect(self) -> Iterator[Metric]:
        """Yield the counters of each alias, its nodes, and invalidation and write-behind."""
        figures = [alias_figures(alias) for alias in ring_aliases()]
        yield from self._counters(figures)
        yield from self._nodes(figures)
        yield from self._queues()

    def _counters(self, figures: list[AliasFigures]) -> Iterator[Metric]:
        totals = {each.alias: counts_in_all(each.alias) for each in figures}
        for counter in fields(Counts):
            metric = CounterMetricFamily(
                f"ringcache_{counter.name}", _MEANINGS[counter.name], labels=["alias"]
            )
            for alias, total in totals.items():
                metric.add_metric([alias], getattr(total, counter.name))
            yield metric

    def _nodes(self, figures: list[AliasFigures]) -> Iterator[Metric]:
        labels = ["alias", "node"]
        up = GaugeMetricFamily("ringcache_node_up", "Whether the node answers.", labels=labels)
        keys = GaugeMetricFamily("ringcache_node_keys", "Keys that the node holds.", labels=labels)
        memory = GaugeMetricFamily("ringcache_node_memory_bytes", "Memory that it uses.", labels=labels)
        evicted = CounterMetricFamily("ringcache_node_evicted_keys", "Keys that it evicted.", labels=labels)
        for each in figures:
            for node in each.nodes:
                at = [each.alias, node.name]
                up.add_metric(at, float(node.is_well))
                if node.info:
                    keys.add_metric(at, node.keys)
                    memory.add_metric(at, float(node.info.get("used_memory", 0)))
                    evicted.add_metric(at, float(node.info.get("evicted_keys", 0)))
        yield from (up, keys, memory, evicted)

    def _queues(self) -> Iterator[Metric]:
        queues = queue_figures()
        yield GaugeMetricFamily(
            "ringcache_outbox_lag_seconds",
            "Age of the oldest delete that is owed.",
            queues.lag or 0.0,
        )
        yield GaugeMetricFamily("ringcache_outbox_rows", "Rows of the outbox.", queues.owed)
        if queues.is_on:
            yield GaugeMetricFamily("ringcache_behind_waiting", "Changes that wait to land.", queues.waiting)
            yield GaugeMetricFamily(
                "ringcache_behind_oldest_seconds", "For how long the oldest has waited.", queues.oldest
            )
            yield GaugeMetricFamily("ringcache_behind_parked", "Writes that Postgres refused.", queues.parked)
            rows = sum(each.rows for each in queues.partitions)
            yield CounterMetricFamily("ringcache_behind_rows", "Rows that landed batches changed.", rows)


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer a scrape; 403 to those who may not see it, 503 if no ring node knows the counts."""
    if not _may_see(request):
        return HttpResponse(
            "Log in as a user who may view the ring, or send the metrics token.\n", status=403
        )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RingCollector())
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    try:
        return HttpResponse(encode(registry), content_type=content_type)
    except RingCacheError as error:
        return HttpResponse(f"{error}\n", status=503)


def _may_see(request: HttpRequest) -> bool:
    token = getattr(settings, "RINGCACHE_METRICS_TOKEN", None)
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if token and constant_time_compare(given, token):
        return True
    user = getattr(request, "user", None)
    return user is not None and user.is_active and user.has_perm("cachebackend.view_ring")
