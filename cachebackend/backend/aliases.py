"""Returns the ring cache of an alias, if the alias has one.

In development and in tests an alias may have another backend, such as ``LocMemCache``, or be
missing. Then nothing of the alias is cached: readers load from the source, and writes invalidate
nothing. Code that cannot work without a ring calls ``ring_cache``, which raises.
"""

from __future__ import annotations

from contextvars import ContextVar

from django.conf import settings
from django.core.cache import InvalidCacheBackendError, caches
from django.core.exceptions import ImproperlyConfigured

from cachebackend.backend.cache import RingCache

__all__ = ["find_ring_cache", "ring_cache"]

#: The ring caches of this thread or task, by alias, and Django's container of them, which Django replaces
#: when ``CACHES`` changes. To ask the container takes a microsecond, and each read of a row asks.
_found: ContextVar[tuple[object, dict[str, RingCache]]] = ContextVar("ring_caches", default=(None, {}))


def find_ring_cache(alias: str) -> RingCache | None:
    """Return the ring cache of an alias; None if the alias has another backend or does not exist.

    Raises:
        InvalidCacheBackendError: The alias' backend cannot be imported.
    """
    connections, found = _found.get()
    present = caches._connections  # type: ignore[attr-defined]  # see ``_found``
    cache = found.get(alias) if connections is present else None
    if cache is None:
        cache = _find(alias)
        if cache is not None:
            _found.set((present, {**(found if connections is present else {}), alias: cache}))
    return cache


def _find(alias: str) -> RingCache | None:
    try:
        cache = caches[alias]
    except InvalidCacheBackendError:
        if alias in settings.CACHES:
            raise
        return None
    return cache if isinstance(cache, RingCache) else None


def ring_cache(alias: str, required_by: str = "this") -> RingCache:
    """Return the ring cache of an alias: the cache object of the calling thread.

    Args:
        alias: The cache alias.
        required_by: What needs a ring cache; the error message names it.

    Raises:
        ImproperlyConfigured: The alias has another backend, or does not exist.
    """
    cache = find_ring_cache(alias)
    if cache is None:
        actual = f"is a {type(caches[alias]).__name__}" if alias in settings.CACHES else "does not exist"
        message = f"{required_by} needs a ring cache; CACHES[{alias!r}] {actual}"
        raise ImproperlyConfigured(message)
    return cache
