"""The ring cache of an alias."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from cachebackend import RingCache
from cachebackend.backend.aliases import ring_cache


def test_an_alias_of_another_cache_is_refused() -> None:
    """With the alias, what it is, and what needs it."""
    local = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    ring = {"BACKEND": "cachebackend.RingCache", "LOCATION": "redis://unused?name=a"}
    with override_settings(CACHES={"default": local, "ring": ring}):
        assert isinstance(ring_cache("ring"), RingCache)
        message = r"@cached needs .*CACHES\['default'\] is a LocMemCache"
        with pytest.raises(ImproperlyConfigured, match=message):
            ring_cache("default", "@cached")
