"""What a test puts around a block: an empty ring, and what the block must invalidate.

Works with any runner. A delete follows the commit, so what is tested must commit:
``TransactionTestCase``, or ``django_db(transaction=True)`` under pytest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, models
from django.test import override_settings

from cachebackend import protocol
from cachebackend.backend import RingCache, Tag, ring_cache
from cachebackend.conf import BACKENDS, ring_aliases
from cachebackend.invalidation.signals import row_of
from cachebackend.invalidation.watched import dependents_of

__all__ = ["assert_invalidates", "empty_ring"]

#: How long what a failed test left behind may stand.
_SECONDS = 600


@contextmanager
def empty_ring(
    alias: str = "default", *, location: Sequence[str] | None = None, **options: Any
) -> Iterator[RingCache]:
    """Give a block the alias' nodes under a key prefix of its own, to find and leave nothing.

    Args:
        alias: The cache alias, a ring cache, or with a ``location`` any.
        location: The URLs of other nodes; the alias' own by default.
        options: What the block's ``OPTIONS`` has besides, such as ``lease_on_get=True``.
    """
    block = settings.CACHES[alias]
    if location is not None:
        kept = block if alias in ring_aliases() else {"BACKEND": BACKENDS[0]}
        block = kept | {"LOCATION": list(location)}
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


@dataclass(frozen=True, slots=True)
class _Mark:
    """A key that was given a value to be invalidated.

    Attributes:
        cache: Where it is.
        key: As the nodes know it.
        what: As people know it.
        is_refilled: Whether what invalidates it loads it anew at once.
    """

    cache: RingCache
    key: bytes
    what: str
    is_refilled: bool = False


@contextmanager
def assert_invalidates(*targets: Tag, alias: str = "default") -> Iterator[None]:
    """Fail if a block leaves any of these standing on the nodes.

    Each is given a value before the block, so nothing needs to be read first. A block that reads
    a target fails too: a reader drops what it cannot use, so nothing can be told of it any more;
    but for a row that is written through, which is read again by who invalidates it.

    Args:
        targets: A row: all that is cached of it, by key and by each lookup. A model: what was
            loaded under it as a tag. A string: what was loaded under that tag.
        alias: The cache alias of tags.

    Raises:
        AssertionError: Some still stand or were read, or nothing is cached of a row.
        ImproperlyConfigured: The test runs in a transaction, which deletes nothing.
    """
    if any(connection.in_atomic_block for connection in connections.all(initialized_only=True)):
        message = (
            "a delete follows the commit, and this test never commits: use TransactionTestCase, "
            "or django_db(transaction=True)"
        )
        raise ImproperlyConfigured(message)
    marks = [mark for target in targets for mark in _marks_of(target, alias)]
    value = uuid4().hex
    try:
        for mark in marks:
            mark.cache.client.set(mark.key, value, _SECONDS * 1000)
        yield
        _refuse_standing(marks, value)
    finally:
        for mark in marks:
            mark.cache.client.run(protocol.delete(mark.cache.client.context, mark.key))


def _refuse_standing(marks: Sequence[_Mark], value: str) -> None:
    faults: dict[str, list[str]] = {}
    for mark in marks:
        client = mark.cache.client
        record = client.run(protocol.inspect(client.context, mark.key)).record
        if record == client.context.codec.encode(value):
            faults.setdefault("not invalidated", []).append(mark.what)
        elif record and not mark.is_refilled:
            faults.setdefault("read by the block, so it cannot be told", []).append(mark.what)
    if faults:
        raise AssertionError("; ".join(f"{why}: {', '.join(sorted(what))}" for why, what in faults.items()))


def _marks_of(target: Tag, alias: str) -> list[_Mark]:
    if not isinstance(target, models.Model):
        cache = ring_cache(alias)
        what = repr(target) if isinstance(target, str) else target._meta.label
        return [_Mark(cache, cache.tag_bytes(target), f"tag {what}")]
    row = row_of(target)
    found = [
        _Mark(
            ring_cache(dependent.alias),
            key,
            f"{target._meta.label} {target.pk} ({key.decode(errors='replace')})",
            dependent.writes_through,
        )
        for _, dependent in dependents_of(type(target))
        for key in dependent.keys_of([row])
    ]
    if not found:
        message = f"nothing is cached of {target._meta.label}: it has no CachedManager and is no tag"
        raise AssertionError(message)
    return found
