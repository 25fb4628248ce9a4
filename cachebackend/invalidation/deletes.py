"""Deletes on the nodes: what a change invalidates, and which keys a node did not confirm."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.conf import settings
from django.core.cache import caches
from django.db import models

from cachebackend import protocol
from cachebackend.backend import RingCache
from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.invalidation.tables import changed_rows
from cachebackend.invalidation.watched import Dependent, KeysByAlias, Row, add_keys

__all__ = ["PendingDeletes", "clear_node", "delete_keys", "nodes_to_clear"]

logger = logging.getLogger("cachebackend")


class PendingDeletes:
    """What one transaction invalidates, or one statement in autocommit.

    Args:
        using: The alias of the database whose rows change.

    Attributes:
        keys: The keys to delete.
        strict_keys: Those that must be in quarantine when the change is committed.
        quarantined: Those that this writer has put in quarantine.
    """

    def __init__(self, using: str) -> None:
        self.using = using
        self.keys: KeysByAlias = {}
        self.strict_keys: KeysByAlias = {}
        self.quarantined: KeysByAlias = {}
        self._token = SYSTEM_CLOCK.token()
        self._refills: dict[int, tuple[Dependent, set[Any]]] = {}

    def add_rows(self, model: type[models.Model], rows: Iterable[Row]) -> None:
        """Add the keys of changed rows, and the rows themselves for dependents that write through."""
        for dependent, changed in changed_rows(model, list(rows), self.using):
            self.add_changed(dependent, changed)

    def add_changed(self, dependent: Dependent, rows: Sequence[Row]) -> None:
        """Add the keys under which a dependent caches changed rows."""
        keys = {dependent.alias: dependent.keys_of(rows, self.using)}
        add_keys(self.keys, keys)
        if dependent.is_strict:
            add_keys(self.strict_keys, keys)
        if dependent.writes_through:
            self._refills.setdefault(id(dependent), (dependent, set()))[1].update(row["pk"] for row in rows)

    def add_keys(self, keys: Mapping[str, Iterable[bytes]]) -> None:
        """Add keys by cache alias."""
        add_keys(self.keys, keys)

    def quarantine(self) -> None:
        """Put the strict keys in quarantine; the change must not be committed before.

        Raises:
            NodeUnavailableError: A node did not confirm; the change must not be committed.
        """
        for alias, keys in self.strict_keys.items():
            new = keys - self.quarantined.get(alias, set())
            cache = _ring_cache(alias)
            if new and cache is not None:
                add_keys(self.quarantined, {alias: new})
                cache.client.run(protocol.quarantine(cache.client.context, list(new), self._token))

    def leave_quarantines(self) -> None:
        """Leave the quarantines to expire: nobody knows whether the change is committed."""
        self.quarantined = {}

    def delete(self) -> KeysByAlias:
        """Delete the keys and end the quarantines; return the keys that a node did not confirm.

        Does not raise when a node fails: the data is committed, and the caller must learn that.
        """
        unconfirmed = delete_keys(
            {alias: keys - self.quarantined.get(alias, set()) for alias, keys in self.keys.items()}
        )
        add_keys(unconfirmed, self.end_quarantines())
        return unconfirmed

    def end_quarantines(self) -> KeysByAlias:
        """Take this writer's token out of its keys; return the keys that a node did not confirm."""
        unconfirmed: KeysByAlias = {}
        for alias, keys in self.quarantined.items():
            cache = _ring_cache(alias)
            if cache is not None:
                operation = protocol.unquarantine(cache.client.context, list(keys), self._token)
                add_keys(unconfirmed, {alias: cache.client.run(operation)})
        return unconfirmed

    def refill(self) -> None:
        """Load changed rows of dependents that write through; a failure is logged and leaves a miss."""
        for dependent, pks in self._refills.values():
            try:
                dependent.refill(pks)
            except Exception:  # the data is committed: nothing may raise into the caller now
                logger.exception("a row could not be loaded again after it was written")


def delete_keys(keys: KeysByAlias) -> KeysByAlias:
    """Delete keys on their nodes; return the keys that a node did not confirm, by cache alias.

    The client does not write an outbox row for them: the caller's row keeps them pending.
    """
    unconfirmed: KeysByAlias = {}
    for alias, group in keys.items():
        cache = _ring_cache(alias)
        if group and cache is not None:
            client = cache.client
            missed = client.run(protocol.delete_many(client.context, list(group), in_outbox=True))
            client.counters.cell.invalidations += len(group) - len(missed)
            add_keys(unconfirmed, {alias: missed})
    return unconfirmed


def clear_node(alias: str, endpoint: str) -> bool:
    """Delete every key of a cache alias on one node; return whether the node confirmed it.

    Returns True if the alias has no such node: nothing is read from it any more.
    """
    cache = _ring_cache(alias)
    if cache is None:
        return True
    nodes = [index for index, node in enumerate(cache.client.nodes) if node.endpoint == endpoint]
    return cache.client.run(protocol.clear_missed(cache.client.context, cache.pattern, nodes))


def nodes_to_clear(alias: str, unconfirmed: set[bytes]) -> tuple[list[str], set[bytes]]:
    """Find the nodes that must be cleared, because they missed more keys than are recorded one by one.

    Args:
        alias: The cache alias.
        unconfirmed: The keys that a node did not confirm.

    Returns:
        The endpoints of those nodes, and the other keys, which remain pending one by one.
    """
    cache = _ring_cache(alias)
    if cache is None or not unconfirmed:
        return [], unconfirmed
    context, nodes = cache.client.context, cache.client.nodes
    full = [index for index in range(len(nodes)) if context.missed.count(index) is None]
    counted = [index for index in range(len(nodes)) if index not in full]
    single = {key for key in unconfirmed if any(context.missed.has_missed(node, key) for node in counted)}
    cleared = {key for key in unconfirmed - single if any(context.may_hold(node, key) for node in full)}
    endpoints = [
        nodes[index].endpoint for index in full if any(context.may_hold(index, key) for key in cleared)
    ]
    return endpoints, unconfirmed - cleared


def _ring_cache(alias: str) -> RingCache | None:
    """Return an alias' ring cache; None if it no longer has one: then nothing reads what it cached."""
    if alias not in settings.CACHES:
        logger.warning(
            "the cache alias %r has pending deletes, but is not in CACHES; they are dropped", alias
        )
        return None
    cache = caches[alias]
    return cache if isinstance(cache, RingCache) else None
