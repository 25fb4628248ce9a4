"""What a transaction makes wrong: keys to delete, quarantines to end, rows to load anew."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from django.conf import settings
from django.core.cache import caches
from django.db import models

from cachebackend import protocol
from cachebackend.backend import RingCache
from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.invalidation.watched import Dependent, dependents_of

__all__ = ["Batch", "clear_node", "delete_keys", "nodes_to_clear"]

logger = logging.getLogger("cachebackend")
Row = Mapping[str, Any]


class Batch:
    """The changes of one transaction, or of one statement in autocommit.

    Attributes:
        keys: What is to be deleted, by cache alias.
        quarantined: What is in quarantine for this writer, by cache alias; part of ``keys``.
    """

    def __init__(self) -> None:
        self.keys: dict[str, set[bytes]] = {}
        self.quarantined: dict[str, set[bytes]] = {}
        self._token = SYSTEM_CLOCK.token()
        self._refills: dict[int, tuple[Dependent, set[Any]]] = {}

    def add(self, model: type[models.Model], rows: Iterable[Row]) -> None:
        """Collect what changed rows make wrong."""
        rows = list(rows)
        for watched, dependent in dependents_of(model):
            self.keys.setdefault(dependent.alias, set()).update(dependent.keys_of(rows))
            key = watched._meta.pk.attname
            pks = {row.get(key, row.get("pk")) for row in rows} - {None}
            self._refills.setdefault(id(dependent), (dependent, set()))[1].update(pks)

    def quarantine(self, model: type[models.Model], rows: Iterable[Row]) -> None:
        """Put the keys of rows that are about to be written in quarantine, where that is asked.

        Raises:
            NodeUnavailableError: A node did not confirm; the rows must not be written.
        """
        strict = [dependent for _, dependent in dependents_of(model) if dependent.is_strict]
        rows = list(rows) if strict else []
        wanted: dict[str, set[bytes]] = {}
        for dependent in strict:
            wanted.setdefault(dependent.alias, set()).update(dependent.keys_of(rows))
        for alias, keys in wanted.items():
            new = keys - self.quarantined.get(alias, set())
            cache = caches[alias]
            if new and isinstance(cache, RingCache):
                self.quarantined.setdefault(alias, set()).update(new)
                cache.client.run(protocol.quarantine(cache.client.context, list(new), self._token))
                self.keys.setdefault(alias, set()).update(new)

    def delete(self) -> dict[str, list[bytes]]:
        """Delete the keys, and end the quarantines; return those that no node confirmed, by alias.

        Raises nothing: the data is committed, and the caller must learn that.
        """
        left: dict[str, list[bytes]] = {}
        for alias, keys in self.keys.items():
            mine = self.quarantined.get(alias, set())
            unconfirmed = delete_keys(alias, list(keys - mine)) + self.end_quarantine(alias)
            if unconfirmed:
                left[alias] = unconfirmed
        return left

    def end_quarantine(self, alias: str) -> list[bytes]:
        """Take this writer out of its keys; return those that no node confirmed."""
        cache, keys = caches[alias], list(self.quarantined.get(alias, ()))
        if not keys or not isinstance(cache, RingCache):
            return []
        return cache.client.run(protocol.unquarantine(cache.client.context, keys, self._token))

    def refill(self) -> None:
        """Load the rows of those who are written through; what fails is logged and left a miss."""
        for dependent, keys in self._refills.values():
            try:
                dependent.refill(keys)
            except Exception:  # the data is committed: nothing may raise into the caller now
                logger.exception("a row could not be loaded anew after it was written")


def delete_keys(alias: str, keys: list[bytes]) -> list[bytes]:
    """Delete keys of a cache alias; return those that no node confirmed."""
    cache = _ring_cache(alias)
    if not keys or cache is None:
        return []
    left = cache.client.run(protocol.delete_many(cache.client.context, keys, in_outbox=True))
    cache.client.counters.cell.invalidations += len(keys) - len(left)
    return left


def clear_node(alias: str, node: str) -> bool:
    """Delete all that a node, by its place, holds of a cache alias; return whether it confirmed that.

    A node that is none of the alias' owes nothing: nobody reads there.
    """
    cache = _ring_cache(alias)
    if cache is None:
        return True
    nodes = [at for at, each in enumerate(cache.client.nodes) if each.endpoint == node]
    return cache.client.run(protocol.clear_missed(cache.client.context, cache.pattern, nodes))


def nodes_to_clear(alias: str, keys: set[bytes]) -> tuple[list[str], set[bytes]]:
    """Return the nodes, by place, that missed too much to be told each key, and the keys that others missed.

    Args:
        alias: The cache alias.
        keys: What was not confirmed by every node.
    """
    cache = _ring_cache(alias)
    if cache is None or not keys:
        return [], keys
    context, nodes = cache.client.context, cache.client.nodes
    full = [at for at in range(len(nodes)) if context.missed.count(at) is None]
    single = [at for at in range(len(nodes)) if at not in full]
    others = {key for key in keys if any(context.missed.has_missed(at, key) for at in single)}
    folded = {key for key in keys - others if any(context.may_hold(at, key) for at in full)}
    endpoints = [nodes[at].endpoint for at in full if any(context.may_hold(at, key) for key in folded)]
    return endpoints, keys - folded


def _ring_cache(alias: str) -> RingCache | None:
    """Return an alias' ring cache; None if it has none any more, and nobody can read what it cached."""
    if alias not in settings.CACHES:
        logger.warning("deletes are owed for the cache alias %r, which is not in CACHES; dropped", alias)
        return None
    cache = caches[alias]
    return cache if isinstance(cache, RingCache) else None
