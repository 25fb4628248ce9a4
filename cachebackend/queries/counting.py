"""Counts reads of queries by their form, for the ring page, the metrics and the toolbar.

A read of a result calls ``count_hit``, or ``CountedRead`` around a read that may load. A query whose
result is not cached is counted by ``count_not_cached``, which logs each model and reason once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Self, TypeVar

from django.db.models.sql.constants import SINGLE

from cachebackend.backend import RingCache
from cachebackend.queries.dependencies import Dependency
from cachebackend.query_counts import FormKind, QueryForm, form_of, shape_form, shape_text

__all__ = ["CountedRead", "cached_form", "count_hit", "count_not_cached", "observers"]

logger = logging.getLogger("cachebackend")
T = TypeVar("T")
#: Called with the form of each read, and what became of it: "hit", "miss" or "not cached".
observers: list[Callable[[QueryForm, str], None]] = []
_logged: set[QueryForm] = set()


def cached_form(query: Any, kind: str, dependencies: Sequence[Dependency]) -> QueryForm:
    """Return what reads of a query's result are counted under.

    Args:
        query: Django's query.
        kind: The form of the result: one row, as of ``count``, or all rows.
        dependencies: What the result depends on.
    """
    shapes = sorted({(each.table, each.shape.id): each for each in dependencies}.items())
    text = "; ".join(shape_text(each.table, each.shape) for _, each in shapes)
    result = "one row" if kind == SINGLE else "rows"
    ids = [shape_form(each.table, each.shape).id for _, each in shapes]
    return form_of(FormKind.CACHED, _label(query), f"{result}: {text}", ids)


def count_hit(cache: RingCache, form: QueryForm) -> None:
    """Count a result that was found in the ring."""
    cache.client.query_counts.cell[form].hits += 1
    if observers:
        _tell(form, "hit")


class CountedRead:
    """A read of a result that may load it. It counts hits and misses as the counters of the alias do.

    Args:
        cache: The cache.
        form: The form of the query.
    """

    __slots__ = ("_counts", "_form", "_hits", "_misses", "_of_alias")

    def __init__(self, cache: RingCache, form: QueryForm) -> None:
        self._counts, self._form = cache.client.query_counts.cell[form], form
        self._of_alias = of_alias = cache.client.counters.cell
        self._hits, self._misses = of_alias.hits, of_alias.misses

    def timed(self, loader: Callable[[], T]) -> Callable[[], T]:
        """Return a loader that counts its calls and the time that they take."""

        def load() -> T:
            begun = perf_counter()
            try:
                return loader()
            finally:
                self._counts.loads += 1
                self._counts.load_micros += round((perf_counter() - begun) * 1_000_000)

        return load

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Count the read itself."""
        is_miss = self._of_alias.misses > self._misses
        self._counts.misses += is_miss
        self._counts.hits += not is_miss and self._of_alias.hits > self._hits
        if observers:
            _tell(self._form, "miss" if is_miss else "hit")


def count_not_cached(cache: RingCache, query: Any, reason: str) -> None:
    """Count a query whose result is not cached; log its model and the reason once."""
    label = _label(query)
    form = form_of(FormKind.NOT_CACHED, label, reason)
    cache.client.query_counts.cell[form].runs += 1
    if form not in _logged and form.model:
        _logged.add(form)
        extra = {"event": "query_not_cached", "model": label, "reason": reason}
        logger.info("queries of %s are not cached: %s", label, reason, extra=extra)
    if observers:
        _tell(form, "not cached")


def _label(query: Any) -> str:
    model = query.model
    return "no model" if model is None else str(model._meta.label)


def _tell(form: QueryForm, outcome: str) -> None:
    for observer in tuple(observers):
        observer(form, outcome)
