"""The ring cache of an alias."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.cache import InvalidCacheBackendError, caches
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from cachebackend import RingCache
from cachebackend.backend.aliases import find_ring_cache, ring_cache

RING = {"BACKEND": "cachebackend.RingCache", "LOCATION": "redis://unused?name=a"}


def test_an_alias_of_another_cache_is_refused() -> None:
    """With the alias, what it is, and what needs it."""
    local = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    with override_settings(CACHES={"default": local, "ring": RING}):
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


def test_each_thread_and_task_has_its_own_ring_cache() -> None:
    """As of Django's ``caches``: the cache object remembers what belongs to a request."""
    with override_settings(CACHES={"default": RING}):
        own = find_ring_cache("default")
        assert own is find_ring_cache("default") is caches["default"]
        with ThreadPoolExecutor(1) as thread:
            others = [thread.submit(find_ring_cache, "default").result() for _ in range(2)]
            assert others[0] is others[1] is thread.submit(lambda: caches["default"]).result()
        assert others[0] is not own


def test_other_settings_have_another_ring_cache() -> None:
    """Although the alias has one name."""
    with override_settings(CACHES={"default": RING}):
        first = find_ring_cache("default")
    with override_settings(CACHES={"default": RING | {"KEY_PREFIX": "other"}}):
        second = find_ring_cache("default")
    assert first is not None
    assert second is not None
    assert second.key_bytes("k") != first.key_bytes("k")
    with override_settings(CACHES={}):
        assert find_ring_cache("default") is None
