"""Returns the ring cache of an alias, if the alias has one.

In development and in tests an alias may have another backend, such as ``LocMemCache``, or be
missing. Then nothing of the alias is cached: readers load from the source, and writes invalidate
nothing. Code that cannot work without a ring calls ``ring_cache``, which raises.
"""

from __future__ import annotations

from django.conf import settings
from django.core.cache import InvalidCacheBackendError, caches
from django.core.exceptions import ImproperlyConfigured

from cachebackend.backend.cache import RingCache

__all__ = ["find_ring_cache", "ring_cache"]


def find_ring_cache(alias: str) -> RingCache | None:
    """Return the ring cache of an alias; None if the alias has another backend or does not exist.

    Raises:
        InvalidCacheBackendError: The alias' backend cannot be imported.
    """
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
