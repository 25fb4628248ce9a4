"""Deletes that wait for the commit.

    1. inside a transaction, the keys of changed rows are collected;
    2. after its commit they are deleted on the nodes, all in one scatter, and only then
       does the writer go on, so it and everyone after it read the new row;
    3. rolled back, nothing was deleted and nothing is owed.

Deleting inside the transaction would be wrong: a reader that misses before the commit
takes a lease after the delete, loads the old row, and fills it with every right.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from django.core.cache import caches
from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper

from cachebackend import protocol
from cachebackend.backend import RingCache
from cachebackend.invalidation.dependents import dependents_of

__all__ = ["invalidate_rows", "is_pending"]

logger = logging.getLogger("cachebackend")
#: Where a database connection carries the batch of its transaction.
_ATTRIBUTE = "_ringcache_batch"


class _Batch:
    """The keys that a transaction makes wrong, by cache alias."""

    def __init__(self) -> None:
        self.keys: dict[str, set[bytes]] = {}

    def add(self, model: type[models.Model], rows: Iterable[Mapping[str, Any]]) -> None:
        """Collect the keys of changed rows."""
        dependents = dependents_of(model)
        for row in rows:
            for dependent in dependents:
                self.keys.setdefault(dependent.alias, set()).update(dependent.keys_of(row))

    def delete(self) -> None:
        """Delete the keys. Raises nothing: the data is committed, and the caller must learn that."""
        for alias, keys in self.keys.items():
            cache = caches[alias]
            if not isinstance(cache, RingCache):
                continue
            left = cache.client.run(protocol.delete_many(cache.client.context, list(keys)))
            cache.client.stats.cell.invalidations += len(keys)
            if left:
                logger.error(
                    "%d keys of %r could not be invalidated and stand until they expire", len(left), alias
                )


class _WaitingBatch(_Batch):
    """A batch that is deleted when the transaction it was made in commits."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__()
        self._callback = self.delete
        self._position = len(connection.run_on_commit)
        connection.on_commit(self._callback)

    def stands(self, connection: BaseDatabaseWrapper) -> bool:
        """Return whether the commit of the present transaction will delete the keys.

        Not so once its savepoint, or the transaction that it was made in, is rolled back:
        Django has then dropped the callback. Looking for it is sure where remembering the
        transaction is not, for one ``atomic`` object can open many. A batch of an outer
        savepoint that takes keys of an inner one deletes too much at worst.
        """
        waiting = connection.run_on_commit
        return self._position < len(waiting) and waiting[self._position][1] == self._callback


def invalidate_rows(model: type[models.Model], rows: Iterable[Mapping[str, Any]], using: str) -> None:
    """Delete what is cached of changed rows: now in autocommit, else after the commit.

    Args:
        model: The rows' model.
        rows: Their columns by attribute name, the primary key's at least.
        using: The database alias that they changed in.
    """
    if not dependents_of(model):
        return
    connection = connections[using]
    if connection.in_atomic_block:
        batch = _standing_batch(connection)
        if batch is None:
            batch = _WaitingBatch(connection)
            setattr(connection, _ATTRIBUTE, batch)
        batch.add(model, rows)
    else:
        now = _Batch()
        now.add(model, rows)
        now.delete()


def is_pending(alias: str, key: bytes, using: str) -> bool:
    """Return whether the open transaction has changed the row behind a key."""
    batch = _standing_batch(connections[using])
    return batch is not None and key in batch.keys.get(alias, ())


def _standing_batch(connection: BaseDatabaseWrapper) -> _WaitingBatch | None:
    batch: _WaitingBatch | None = getattr(connection, _ATTRIBUTE, None)
    return batch if batch is not None and batch.stands(connection) else None
