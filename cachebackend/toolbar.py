"""A panel for django-debug-toolbar: its cache panel, with the calls that only a ring cache has.

Name ``cachebackend.toolbar.RingPanel`` in ``DEBUG_TOOLBAR_PANELS`` instead of
``debug_toolbar.panels.cache.CachePanel``. It adds calls of ``Model.cached`` and of the methods that
Django's own caches do not have. Like the toolbar's panel, it shows no asynchronous calls.
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


class RingPanel(CachePanel):
    """The cache panel, with the calls of managers and of the ring cache's own methods."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.counts |= dict.fromkeys((*_CACHE_CALLS, *(f"cached.{name}" for name in _MANAGER_CALLS)), 0)

    @classmethod
    def ready(cls) -> None:
        """Wrap the methods, once in a process; a call is recorded only while a panel is enabled."""
        super().ready()
        for name in _CACHE_CALLS:
            _wrap(cls, RingCache, name, name)
        for name in _MANAGER_CALLS:
            _wrap(cls, CachedManager, name, f"cached.{name}")

    def record(self, name: str, owner: Any, call: Callable[[], Any], args: Any, kwargs: Any) -> Any:
        """Make a call, record it with its duration, and return its result.

        Calls of the same cache that it makes in turn are not recorded apart.

        Args:
            name: The call's name in the panel.
            owner: The cache or manager that was called.
            call: Makes the call.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """
        cache = owner if isinstance(owner, RingCache) else find_ring_cache(owner.alias)
        if cache is None:
            return call()  # the alias has no ring cache, so this is a query
        outer = getattr(cache, "_djdt_panel", None)
        cache._djdt_panel = None
        begun = perf_counter()
        try:
            value = call()
        finally:
            taken = perf_counter() - begun
            cache._djdt_panel = outer
        label = owner.model._meta.label if isinstance(owner, CachedManager) else type(owner).__name__
        self._store_call_info(
            name=name,
            time_taken=taken,
            return_value=value,
            args=args,
            kwargs=kwargs,
            trace=get_stack_trace(skip=2),
            template_info=get_template_info(),
            backend=label,
        )
        return value


def _wrap(panel: type[RingPanel], owner: type[Any], name: str, shown: str) -> None:
    """Wrap a method so that an enabled panel records its calls under the name ``shown``."""
    method = getattr(owner, name)
    if hasattr(method, "__wrapped__"):
        return

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        current = panel.current_instance()
        if not isinstance(current, RingPanel):
            return method(self, *args, **kwargs)
        return current.record(shown, self, lambda: method(self, *args, **kwargs), args, kwargs)

    setattr(owner, name, wrapped)
