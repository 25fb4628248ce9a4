"""Makes metrics: their names, and their meanings from the docstrings of the counters."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping

from prometheus_client.metrics_core import GaugeMetricFamily, HistogramMetricFamily, Metric

from cachebackend.counters import Counts, DrainCounts
from cachebackend.histogram import Histogram
from cachebackend.query_counts import FormCounts

__all__ = ["gauge", "histogram", "meanings"]

_ATTRIBUTE = re.compile(r"^    (\w+): (.+?)(?=^    \w+: |\Z)", re.DOTALL | re.MULTILINE)
#: The upper bounds of a histogram's buckets: powers of two, from 64 µs to 34 s.
_BOUNDS_MICROS = tuple(2**power for power in range(6, 26))


def gauge(name: str, meaning: str, value: float | None) -> Metric:
    """Return a gauge; one without a sample if its value is unknown."""
    return GaugeMetricFamily(f"ringcache_{name}", meaning, value)


def histogram(name: str, meaning: str, times_by_alias: Mapping[str, Histogram]) -> Metric:
    """Return a histogram for each alias; under the empty name, one without a label."""
    labels = [] if "" in times_by_alias else ["alias"]
    metric = HistogramMetricFamily(f"ringcache_{name.removesuffix('_times')}_seconds", meaning, labels=labels)
    for alias, times in times_by_alias.items():
        buckets = [(str(bound / 1_000_000), times.count_below(bound)) for bound in _BOUNDS_MICROS]
        buckets.append(("+Inf", times.count))
        metric.add_metric([alias] if alias else [], buckets, times.seconds)
    return metric


def meanings(counts: type[Counts | DrainCounts | FormCounts]) -> dict[str, str]:
    """Return the meaning of each counter, from the docstring of its class."""
    text = inspect.cleandoc(counts.__doc__ or "")
    return {name: " ".join(meaning.split()) for name, meaning in _ATTRIBUTE.findall(text)}
