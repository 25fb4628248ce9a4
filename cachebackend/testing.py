"""For the tests of projects that use the ring: an empty ring, and what a block invalidates.

Works with any runner. A delete follows the commit, so what is tested must commit:
``TransactionTestCase``, or ``django_db(transaction=True)`` under pytest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, models
from django.test import override_settings

from cachebackend.backend import RingCache, Tag, ring_cache
from cachebackend.invalidation.dependents import dependents_of
from cachebackend.invalidation.signals import row_of

__all__ = ["assert_invalidates", "empty_ring"]

#: How long what a failed test left behind may stand.
_SECONDS = 600


@contextmanager
def empty_ring(alias: str = "default", **options: Any) -> Iterator[RingCache]:
    """Give a block the alias' nodes under a key prefix of its own, to find and leave nothing.

    Args:
        alias: The cache alias, a ring cache.
        options: What the block's ``OPTIONS`` has besides, such as ``lease_on_get=True``.
    """
    block = settings.CACHES[alias]
    own = block | {
        "KEY_PREFIX": f"test-{uuid4().hex}",
        "OPTIONS": {**block.get("OPTIONS", {}), **options},
    }
    with override_settings(CACHES={**settings.CACHES, alias: own}):
        cache = ring_cache(alias)
        try:
            yield cache
        finally:
            cache.clear()


@contextmanager
def assert_invalidates(*targets: Tag, alias: str = "default") -> Iterator[None]:
    """Fail if a block leaves any of these standing on the nodes.

    Each is given a value before the block, so nothing needs to be read first; and a block
    that reads a target tells nothing of it, for a reader drops what it cannot use.

    Args:
        targets: A row: all that is cached of it, by key and by each lookup. A model: what was
            loaded under it as a tag. A string: what was loaded under that tag.
        alias: The cache alias of tags.

    Raises:
        AssertionError: Some still stand, or nothing is cached of a row.
        ImproperlyConfigured: The test runs in a transaction, which deletes nothing.
    """
    if any(connection.in_atomic_block for connection in connections.all(initialized_only=True)):
        message = (
            "a delete follows the commit, and this test never commits: use TransactionTestCase, "
            "or django_db(transaction=True)"
        )
        raise ImproperlyConfigured(message)
    marked = [(cache, key, what) for target in targets for cache, key, what in _keys_of(target, alias)]
    mark = uuid4().hex
    for cache, key, _ in marked:
        cache.client.set(key, mark, _SECONDS * 1000)
    yield
    standing = sorted({what for cache, key, what in marked if cache.client.get(key) == mark})
    if standing:
        message = f"not invalidated: {', '.join(standing)}"
        raise AssertionError(message)


def _keys_of(target: Tag, alias: str) -> list[tuple[RingCache, bytes, str]]:
    if not isinstance(target, models.Model):
        cache = ring_cache(alias)
        what = repr(target) if isinstance(target, str) else target._meta.label
        return [(cache, cache.tag_bytes(target), f"tag {what}")]
    row = row_of(target)
    found = [
        (
            ring_cache(dependent.alias),
            key,
            f"{target._meta.label} {target.pk} ({key.decode(errors='replace')})",
        )
        for _, dependent in dependents_of(type(target))
        for key in dependent.keys_of([row])
    ]
    if not found:
        message = f"nothing is cached of {target._meta.label}: it has no CachedManager and is no tag"
        raise AssertionError(message)
    return found
