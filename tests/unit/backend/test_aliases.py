"""The ring cache of an alias."""

from __future__ import annotations

import pytest
from django.core.cache import InvalidCacheBackendError
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from cachebackend import RingCache
from cachebackend.backend.aliases import find_ring_cache, ring_cache


def test_an_alias_of_another_cache_is_refused() -> None:
    """With the alias, what it is, and what needs it."""
    local = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    ring = {"BACKEND": "cachebackend.RingCache", "LOCATION": "redis://unused?name=a"}
    with override_settings(CACHES={"default": local, "ring": ring}):
        assert isinstance(ring_cache("ring"), RingCache)
        message = r"@cached needs .*CACHES\['default'\] is a LocMemCache"
        with pytest.raises(ImproperlyConfigured, match=message):
            ring_cache("default", "@cached")
        with pytest.raises(ImproperlyConfigured, match=r"CACHES\['gone'\] does not exist"):
            ring_cache("gone")
        assert find_ring_cache("default") is find_ring_cache("gone") is None


def test_a_backend_that_cannot_be_imported_is_an_error() -> None:
    """It is a mistake in the settings, and not an alias without a ring."""
    misspelt = {"default": {"BACKEND": "cachebackend.RingCash"}}
    with override_settings(CACHES=misspelt), pytest.raises(InvalidCacheBackendError):
        find_ring_cache("default")
