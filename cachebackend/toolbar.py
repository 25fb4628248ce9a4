"""A panel for django-debug-toolbar: its cache panel, with the calls that only a ring cache has.

Name ``cachebackend.toolbar.RingPanel`` in ``DEBUG_TOOLBAR_PANELS`` instead of
``debug_toolbar.panels.cache.CachePanel``. It adds calls of ``Model.cached``, evaluations of cached
querysets, and calls of the methods that Django's own caches do not have. An evaluation is shown with what
was read: a hit or a miss and what the result depends on, or why it is not cached. Like the toolbar's
panel, it shows no asynchronous calls.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from time import perf_counter
from typing import Any

from debug_toolbar.panels.cache import CachePanel
from debug_toolbar.utils import get_stack_trace, get_template_info

from cachebackend.backend import RingCache, find_ring_cache
from cachebackend.managers import CachedManager
from cachebackend.queries.counting import observers
from cachebackend.queries.queryset import CachedQuerySet
from cachebackend.query_counts import QueryForm

__all__ = ["RingPanel"]

_CACHE_CALLS = (
    "get_or_set_many",
    "invalidate_tags",
    "make_stale",
    "ttl",
    "pttl",
    "persist",
    "expire",
    "pexpire",
    "expire_at",
    "pexpire_at",
    "keys",
    "delete_pattern",
)
_MANAGER_CALLS = ("get", "in_bulk")
#: The methods that evaluate a queryset, and their names in the panel.
_QUERYSET_CALLS = {"_fetch_all": "rows", "count": "count", "exists": "exists", "aggregate": "aggregate"}


class RingPanel(CachePanel):
    """The cache panel, with the calls of managers and of the ring cache's own methods."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        shown = (*_MANAGER_CALLS, *_QUERYSET_CALLS.values())
        self.counts |= dict.fromkeys((*_CACHE_CALLS, *(f"cached.{name}" for name in shown)), 0)
        #: What the call that is being recorded has read; None: no call is.
        self._reads: list[str] | None = None

    @classmethod
    def ready(cls) -> None:
        """Wrap the methods, once in a process; a call is recorded only while a panel is enabled."""
        super().ready()
        for name in _CACHE_CALLS:
            _wrap(cls, RingCache, name, name)
        for name in _MANAGER_CALLS:
            _wrap(cls, CachedManager, name, f"cached.{name}")
        for name, shown in _QUERYSET_CALLS.items():
            _wrap(cls, CachedQuerySet, name, f"cached.{shown}")
        if _observe not in observers:
            observers.append(_observe)

    def observe(self, form: QueryForm, outcome: str) -> None:
        """Record what became of a read of a query: "hit", "miss" or "not cached"."""
        if self._reads is not None:
            self._reads.append(f"{outcome}: {form.text}")
            self.hits += outcome == "hit"
            self.misses += outcome == "miss"

    def record(self, name: str, owner: Any, call: Callable[[], Any], args: Any, kwargs: Any) -> Any:
        """Make a call, record it with its duration, and return its result.

        Calls that it makes in turn are not recorded apart.

        Args:
            name: The call's name in the panel.
            owner: The cache, manager or queryset that was called.
            call: Makes the call.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """
        cache = _cache_of(owner)
        if cache is None or self._reads is not None:
            return call()  # the alias has no ring cache, so this is a query
        reads: list[str] = []
        self._reads = reads
        outer = getattr(cache, "_djdt_panel", None)
        cache._djdt_panel = None
        begun = perf_counter()
        try:
            value = call()
        finally:
            taken = perf_counter() - begun
            cache._djdt_panel, self._reads = outer, None
        label = type(owner).__name__ if isinstance(owner, RingCache) else owner.model._meta.label
        self._store_call_info(
            name=name,
            time_taken=taken,
            return_value=value,
            args=args,
            kwargs=kwargs | {"read": reads} if reads else kwargs,
            trace=get_stack_trace(skip=2),
            template_info=get_template_info(),
            backend=label,
        )
        return value


def _observe(form: QueryForm, outcome: str) -> None:
    panel = RingPanel.current_instance()
    if isinstance(panel, RingPanel):
        panel.observe(form, outcome)


def _cache_of(owner: Any) -> RingCache | None:
    """Return the cache that a cache, a manager or a queryset reads; None if its alias has another backend."""
    if isinstance(owner, RingCache):
        return owner
    is_queryset = isinstance(owner, CachedQuerySet)
    return find_ring_cache(owner.cache_options.alias if is_queryset else owner.cache_alias)


def _wrap(panel: type[RingPanel], owner: type[Any], name: str, shown: str) -> None:
    """Wrap a method so that an enabled panel records its calls under the name ``shown``."""
    method = getattr(owner, name)
    if hasattr(method, "__wrapped__"):
        return

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        current = panel.current_instance()
        is_read = getattr(self, "_result_cache", None) is not None  # a queryset that has its rows
        if is_read or not isinstance(current, RingPanel):
            return method(self, *args, **kwargs)
        return current.record(shown, self, lambda: method(self, *args, **kwargs), args, kwargs)

    setattr(owner, name, wrapped)
