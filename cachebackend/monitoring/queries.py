"""The queries of cached querysets: what all processes counted of each form, and what is not cached."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cachebackend.errors import RingCacheError
from cachebackend.query_counts import FormCounts, FormKind, QueryForm
from cachebackend.telemetry.publisher import publish_counts
from cachebackend.telemetry.query_counts import (
    HOUR,
    CountedForms,
    hourly_query_counts,
    total_query_counts,
)

__all__ = ["RECENT_HOURS", "CachedForm", "PlainForm", "QueryFigures", "query_figures", "total_query_figures"]

#: The hours that the page shows, the present one included.
RECENT_HOURS = 2


class CachedForm(NamedTuple):
    """A form of queries whose results are cached.

    Attributes:
        model: The label of the model; empty for all forms beyond the limit.
        text: What the results depend on.
        hits: Results that were found in the ring.
        misses: Results that were not found, or not valid any more.
        loads: Queries that the database was sent for results.
        load_seconds: The time that these took.
        invalidations: Tags of the form's shapes that were deleted because rows changed.
    """

    model: str
    text: str
    hits: int
    misses: int
    loads: int
    load_seconds: float
    invalidations: int

    @property
    def hit_percent(self) -> float | None:
        """The share of reads that were hits, 0 to 100; None if nothing was read."""
        reads = self.hits + self.misses
        return 100 * self.hits / reads if reads else None

    @property
    def mean_load_ms(self) -> float | None:
        """The mean time of a load, in milliseconds; None if nothing was loaded."""
        return 1000 * self.load_seconds / self.loads if self.loads else None


class PlainForm(NamedTuple):
    """A form of queries whose results are not cached.

    Attributes:
        model: The label of the model; empty for all forms beyond the limit.
        reason: Why they are not cached.
        runs: Queries that the database was sent.
    """

    model: str
    reason: str
    runs: int


class QueryFigures(NamedTuple):
    """The queries of a cache alias.

    Attributes:
        alias: The alias.
        since: The time from which on they were counted, in seconds since 1970.
        cached: Forms whose results are cached: those that the database was busy with longest come first.
        not_cached: Forms whose results are not cached, the most frequent first.
        keys: The groups of keys: those that loaders were busy with longest come first. Hits and misses are
            estimated, from one get in 64.
        error: Why the counts cannot be read.
    """

    alias: str
    since: float
    cached: list[CachedForm]
    not_cached: list[PlainForm]
    error: str = ""
    keys: Sequence[CachedForm] = ()


def query_figures(alias: str, hours: int = RECENT_HOURS) -> QueryFigures:
    """Return the queries of an alias in some hours, what this process counted included.

    Args:
        alias: The cache alias.
        hours: How many, the present one included; at most a day's are kept.
    """
    publish_counts(alias)
    since = (time.time() // HOUR - hours + 1) * HOUR
    return _figures(alias, since, lambda: hourly_query_counts(alias, hours))


def total_query_figures(alias: str) -> QueryFigures:
    """Return the queries of an alias in the present week."""
    return _figures(alias, 0.0, lambda: total_query_counts(alias))


def _figures(alias: str, since: float, read: Callable[[], CountedForms]) -> QueryFigures:
    try:
        counted = read()
    except RingCacheError as error:
        return QueryFigures(alias, since, [], [], str(error))
    cached, keys = (
        sorted(
            (_cached_form(form, counts, counted) for form, counts in counted.values() if form.kind is kind),
            key=lambda each: (-each.load_seconds, -each.hits, each.model, each.text),
        )
        for kind in (FormKind.CACHED, FormKind.KEYS)
    )
    not_cached = [
        PlainForm(form.model, form.text, counts.runs)
        for form, counts in counted.values()
        if form.kind is FormKind.NOT_CACHED
    ]
    return QueryFigures(
        alias,
        since,
        cached,
        sorted(not_cached, key=lambda each: (-each.runs, each.model, each.reason)),
        keys=keys,
    )


def _cached_form(form: QueryForm, counts: FormCounts, counted: CountedForms) -> CachedForm:
    invalidations = sum(counted[each][1].invalidations for each in form.shapes if each in counted)
    seconds = counts.load_micros / 1_000_000
    return CachedForm(form.model, form.text, counts.hits, counts.misses, counts.loads, seconds, invalidations)
