"""What every test may ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.cache import caches

from cachebackend.backend import RingCache


@pytest.fixture
def ring_cache(empty_nodes: None) -> RingCache:
    """The default alias, on empty nodes."""
    cache = caches.create_connection("default")
    assert isinstance(cache, RingCache)
    return cache


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Call a method of an object: itself, or its async twin in an event loop."""
    if request.param == "sync":
        return lambda target, name, *args, **kwargs: getattr(target, name)(*args, **kwargs)
    return lambda target, name, *args, **kwargs: async_to_sync(getattr(target, f"a{name}"))(*args, **kwargs)
