"""Returns the ring cache of an alias."""

from __future__ import annotations

from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured

from cachebackend.backend.cache import RingCache

__all__ = ["ring_cache"]


def ring_cache(alias: str, required_by: str = "this") -> RingCache:
    """Return the ring cache of an alias: the cache object of the calling thread.

    Args:
        alias: The cache alias.
        required_by: What needs a ring cache; the error message names it.

    Raises:
        ImproperlyConfigured: The alias has another backend.
    """
    cache = caches[alias]
    if not isinstance(cache, RingCache):
        message = f"{required_by} needs a ring cache; CACHES[{alias!r}] is a {type(cache).__name__}"
        raise ImproperlyConfigured(message)
    return cache
