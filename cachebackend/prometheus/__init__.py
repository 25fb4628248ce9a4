"""Metrics for Prometheus. They sum all processes, so it is enough to scrape one of them.

``path("metrics/", cachebackend.prometheus.metrics)`` serves them to users who may view the ring
page, and to requests with ``Authorization: Bearer`` and ``settings.RINGCACHE_METRICS_TOKEN``.
``RingCollector`` is for a registry of your own. Needs the extra ``prometheus``.

``view`` answers a scrape, ``collector`` yields the metrics, ``nodes`` those of the nodes, and ``families``
makes one of them. May import ``monitoring`` and everything below it.
"""

from __future__ import annotations

try:
    import prometheus_client  # noqa: F401  # the modules of this package need it
except ModuleNotFoundError as error:
    message = "the metrics need prometheus-client: pip install 'django-ringcache[prometheus]'"
    raise ImportError(message) from error

from cachebackend.prometheus.collector import RingCollector
from cachebackend.prometheus.view import metrics

__all__ = ["RingCollector", "metrics"]
