"""Deletes on the nodes: what a change invalidates, and which keys a node did not confirm.

Values are deleted first, and when their nodes have replied, the tags. In one scatter it would be
wrong, because a loader may read a cached row, and its result is tagged with that row's model:

    1. writer    COMMIT; sends the deletes of the row's key and of the tag to their nodes
    2. node A    deletes the tag
    3. reader    misses the page, takes the tag's new token, reads the row, which is still cached
    4. node B    deletes the row's key
    5. reader    fills the page with the old row under the new token: stale until it expires

In order, a token that is newer than the delete of the tag means that the old row is gone. The results
of queries are values, too: a loader may read a cached list. What a change makes wrong among them is
known when the registry of shapes was read, which is sent with the deletes of rows.

A node
that does not confirm the delete of a value may serve the value to others. So the tags are deleted
at once, because pages from before are stale, and again when the value's delete is confirmed,
because pages that were made in between may be stale too:

    1. writer    COMMIT; is cut off from node B, which keeps the row; deletes the tag at node A
    2. reader    is not cut off: makes the page from the old row under the tag's new token
    3. replay    node B gets its missed delete from any process; node A had confirmed
    4. relay     deletes the row's key again: confirmed; deletes the tag again
    5. reader    misses the page, and makes it from the new row

Step 4 happens in any case: the outbox row holds the value and its tags, and remains until the
value, and after it the tags, are confirmed. A replay may therefore send a tag to its node before
another node gets the value: the row is still pending then.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from django.conf import settings

from cachebackend import protocol
from cachebackend.backend import RingCache, find_ring_cache
from cachebackend.backend.keys import is_tag_key, pattern_of_key, special_keys
from cachebackend.effects import side_by_side
from cachebackend.errors import RingCacheError
from cachebackend.invalidation.shape_registry import Registry
from cachebackend.invalidation.watched import KeysByAlias, add_keys

__all__ = ["delete_keys", "delete_together", "ring_cache_of", "values_and_tags"]

logger = logging.getLogger("cachebackend")
#: Keys of one scatter: a node deletes its share of them well within the time that a command may take.
KEYS_PER_SCATTER = 10_000


def values_and_tags(keys: KeysByAlias) -> tuple[KeysByAlias, KeysByAlias]:
    """Return the keys that hold values, and the keys of tags, each by cache alias."""
    values: KeysByAlias = {}
    tags: KeysByAlias = {}
    for alias, group in keys.items():
        of_tags = {key for key in group if is_tag_key(key)}
        add_keys(tags, {alias: of_tags})
        add_keys(values, {alias: group - of_tags})
    return values, tags


def delete_keys(keys: KeysByAlias) -> KeysByAlias:
    """Delete keys on their nodes, first values and then tags; return the keys that a node did not confirm.

    The client does not write an outbox row for them: the caller's row keeps them pending.
    """
    values, tags = values_and_tags(keys)
    unconfirmed = delete_together(values)
    add_keys(unconfirmed, delete_together(tags))
    return unconfirmed


def delete_together(keys: KeysByAlias) -> KeysByAlias:
    """Delete keys that are all of values or all of tags; return the keys that a node did not confirm."""
    unconfirmed: KeysByAlias = {}
    for alias, group in keys.items():
        cache = ring_cache_of(alias)
        if cache is None:
            continue
        missed = _delete_at_once(cache, group)
        if missed and cache.client.probe_ejected():
            missed = _delete_at_once(cache, set(missed))
        add_keys(unconfirmed, {alias: missed})
    return unconfirmed


def _delete_at_once(cache: RingCache, keys: set[bytes]) -> list[bytes]:
    """Delete keys of an alias; return the keys that a node did not confirm."""
    special = special_keys(keys)
    patterns = {key: pattern for key in special if (pattern := pattern_of_key(key)) is not None}
    missed = _delete_with_changes(cache, list(keys - special), special - patterns.keys())
    for key, pattern in patterns.items():
        if pattern and not _delete_pattern(cache, pattern):
            missed.append(key)
    return missed


def _delete_with_changes(cache: RingCache, keys: Sequence[bytes], changes: Iterable[bytes]) -> list[bytes]:
    """Delete keys, and what some changes make wrong; return the keys and changes that were not confirmed.

    The registry is read in the first scatter of the keys. A result is loaded from the database and never
    from cached rows, so its tags need not wait for the deletes of rows.
    """
    if not changes:
        return _scatter(cache, keys)
    registry = Registry(cache, changes)
    missed = _scatter(cache, keys, registry.read())
    wrong = dict(registry.wrong_keys())
    missed += _scatter(cache, list(set().union(*wrong.values())))
    return missed + [
        change for change, group in wrong.items() if not registry.is_confirmed or not group.isdisjoint(missed)
    ]


def _scatter(
    cache: RingCache, keys: Sequence[bytes], beside: protocol.Operation[list[bytes]] | None = None
) -> list[bytes]:
    """Delete keys, in one scatter if they are not too many; return those that a node did not confirm.

    Args:
        cache: The cache.
        keys: The keys.
        beside: An operation that only sends commands; they go out with the first deletes.
    """
    missed: list[bytes] = []
    client = cache.client
    for start in range(0, len(keys) or int(beside is not None), KEYS_PER_SCATTER):
        chunk = keys[start : start + KEYS_PER_SCATTER]
        operation = protocol.delete_many(client.context, chunk, in_outbox=True)
        if beside is not None:
            operation, beside = _together(operation, beside), None
        missed += client.run(operation)
    client.counters.cell.invalidations += len(keys) - len(missed)
    return missed


def _together(*operations: protocol.Operation[list[bytes]]) -> protocol.Operation[list[bytes]]:
    """Run operations side by side; return what all of them return."""
    found: list[bytes] = []
    for result in (yield from side_by_side(operations)):
        if isinstance(result, RingCacheError):
            raise result
        found += result
    return found


def _delete_pattern(cache: RingCache, pattern: bytes) -> bool:
    """Delete the keys that match a pattern on all nodes; return whether all of them confirmed it."""
    try:
        cache.client.run(protocol.clear(cache.client.context, pattern))
    except RingCacheError:
        return False
    return True


def ring_cache_of(alias: str) -> RingCache | None:
    """Return an alias' ring cache; None if it no longer has one: then nothing reads what it cached."""
    if alias not in settings.CACHES:
        logger.warning(
            "the cache alias %r has pending deletes, but is not in CACHES; they are dropped", alias
        )
        return None
    return find_ring_cache(alias)
