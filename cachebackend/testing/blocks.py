"""Context managers for tests: an empty ring, and an assertion of what a block invalidates.

They work with any test runner. Keys are deleted after the commit, so the tested code must commit:
use ``TransactionTestCase``, or ``django_db(transaction=True)`` under pytest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, models, router
from django.test import override_settings

from cachebackend import protocol
from cachebackend.backend import RingCache, Tag, ring_cache
from cachebackend.backend.lazy_objects import loaded
from cachebackend.conf import BACKENDS, ring_aliases
from cachebackend.invalidation.tables import changed_rows

__all__ = ["assert_invalidates", "empty_ring"]

#: Seconds after which the marks of a test that was killed expire.
_MARK_SECONDS = 600


@contextmanager
def empty_ring(
    alias: str = "default", *, location: Sequence[str] | None = None, **options: Any
) -> Iterator[RingCache]:
    """Give the alias a unique key prefix for a block, so that the block finds nothing; then clear it.

    Args:
        alias: The cache alias: a ring cache, or any cache if a ``location`` is given.
        location: The URLs of the nodes. Default: those of the alias.
        options: Values that are added to the alias' ``OPTIONS``, such as ``lease_on_get=True``.
    """
    settings_block = settings.CACHES[alias]
    if location is not None:
        ring_block = settings_block if alias in ring_aliases() else {"BACKEND": BACKENDS[0]}
        settings_block = ring_block | {"LOCATION": list(location)}
    test_block = settings_block | {
        "KEY_PREFIX": f"test-{uuid4().hex}",
        "OPTIONS": {**settings_block.get("OPTIONS", {}), **options},
    }
    with override_settings(CACHES={**settings.CACHES, alias: test_block}):
        cache = ring_cache(alias, "empty_ring()")
        try:
            yield cache
        finally:
            cache.clear()


@dataclass(frozen=True, slots=True)
class _Mark:
    """A key that holds a known value, which the block must delete.

    Attributes:
        cache: The cache that has the key.
        key: The key as the nodes store it.
        description: The key as the error message names it.
        is_refilled: Whether the row is written through: after the delete it is loaded again.
    """

    cache: RingCache
    key: bytes
    description: str
    is_refilled: bool = False


@contextmanager
def assert_invalidates(*targets: Tag, alias: str = "default") -> Iterator[None]:
    """Fail if a block does not invalidate all of these targets.

    Each target gets a mark on its node before the block, so the test need not cache anything. A
    block that reads a target fails too: the reader replaces the mark, so the assertion cannot check
    the target. Rows that are written through are the exception: the write itself reads them.

    Args:
        targets: A row: what is cached of it by its primary key, and all values with that tag. A lookup
            that leads to the row remains if its value does not change. A model: all values with that
            tag. A string: all values with that tag.
        alias: The cache alias of the tags.

    Raises:
        AssertionError: A target was not invalidated or was read, or nothing is cached of a row.
        ImproperlyConfigured: The test runs in a transaction, in which no key is deleted.
    """
    if any(connection.in_atomic_block for connection in connections.all(initialized_only=True)):
        message = (
            "keys are deleted after the commit, and this test never commits: use TransactionTestCase, "
            "or django_db(transaction=True)"
        )
        raise ImproperlyConfigured(message)
    marks = [mark for target in targets for mark in _marks_of(target, alias)]
    value = uuid4().hex
    try:
        for mark in marks:
            mark.cache.client.set(mark.key, value, _MARK_SECONDS * 1000)
        yield
        _assert_invalidated(marks, value)
    finally:
        for mark in marks:
            mark.cache.client.run(protocol.delete(mark.cache.client.context, mark.key))


def _assert_invalidated(marks: Sequence[_Mark], value: str) -> None:
    faults: dict[str, list[str]] = {}
    for mark in marks:
        client = mark.cache.client
        record = client.run(protocol.telemetry.inspect(client.context, mark.key)).record
        if record == client.context.codec.encode(value, mark.key):
            faults.setdefault("not invalidated", []).append(mark.description)
        elif record and not mark.is_refilled:
            faults.setdefault("read by the block, so it cannot be checked", []).append(mark.description)
    if faults:
        raise AssertionError(
            "; ".join(f"{fault}: {', '.join(sorted(keys))}" for fault, keys in faults.items())
        )


def _marks_of(target: Tag, alias: str) -> list[_Mark]:
    """Return a mark for each key that an invalidation of the target must delete."""
    target = loaded(target)
    if not isinstance(target, models.Model):
        cache = ring_cache(alias, "assert_invalidates()")
        name = repr(target) if isinstance(target, str) else target._meta.label
        return [_Mark(cache, cache.tag_bytes(target), f"tag {name}")]
    row, using = {"pk": target.pk}, target._state.db or router.db_for_write(type(target))
    marks = [
        _Mark(
            ring_cache(dependent.cache_alias),
            key,
            f"{target._meta.label} {target.pk} ({key.decode(errors='replace')})",
            dependent.writes_through,
        )
        for dependent, rows in changed_rows(type(target), [row], using)
        for key in dependent.keys_of(rows, using)
    ]
    if not marks:
        message = f"nothing is cached of {target._meta.label}: it has no CachedManager and is not a tag"
        raise AssertionError(message)
    return marks
