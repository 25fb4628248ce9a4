"""Deletes that wait for the commit, and are not forgotten by a crash.

    1. inside a transaction, the keys of changed rows are collected;
    2. at its commit, one outbox row with them is committed too;
    3. after it they are deleted on the nodes, all in one scatter, and only then does the
       writer go on, so it and everyone after it read the new row;
    4. every node confirmed: the outbox row is dropped. Not so, or the process died: the
       relay deletes again;
    5. rolled back, nothing was deleted and nothing is owed.

Deleting inside the transaction would be wrong: a reader that misses before the commit
takes a lease after the delete, loads the old row, and fills it with every right.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper

from cachebackend.clock import SYSTEM_CLOCK, LogRateLimit
from cachebackend.conf import ring_aliases, ring_options
from cachebackend.invalidation.outbox import drop, owe
from cachebackend.invalidation.pending import Batch
from cachebackend.invalidation.trigger_rows import adopt_caught, caught_of
from cachebackend.invalidation.watched import dependents_of

__all__ = ["finish_write", "invalidate_rows", "is_in_transaction", "is_pending", "prepare_write"]

logger = logging.getLogger("cachebackend")
#: Where a database connection carries the batch of its transaction.
_ATTRIBUTE = "_ringcache_batch"
#: The first version that has ``transaction_timeout``.
POSTGRES_17 = 170_000
QUARANTINE_SECONDS = 30.0
_left = LogRateLimit(SYSTEM_CLOCK)
Rows: TypeAlias = Iterable[Mapping[str, Any]]
#: What a statement in autocommit changes, and the key of its outbox row.
Prepared: TypeAlias = tuple[Batch, int | None]


class _TransactionBatch(Batch):
    """The batch of the open transaction of a connection."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__()
        self._using = connection.alias
        self._owed: int | None = None
        #: Autocommit was turned off by hand: Django then has no hooks after a commit.
        self.is_manual = not connection.in_atomic_block
        self._callback = self.after_commit
        _hook(connection)
        if not self.is_manual:
            connection.on_commit(self._callback)
            # First: Django stops at a callback that raises
            connection.run_on_commit.insert(0, connection.run_on_commit.pop())

    def stands(self, connection: BaseDatabaseWrapper) -> bool:
        """Return whether the commit of the present transaction will delete the keys.

        Not so once its savepoint, or the transaction that it was made in, is rolled back:
        Django has then dropped the callback. Looking for it is sure where remembering the
        transaction is not, for one ``atomic`` object can open many. A batch of an outer
        savepoint that takes keys of an inner one deletes too much at worst.
        """
        return self.is_manual or any(waiting[1] == self._callback for waiting in connection.run_on_commit)

    def before_commit(self) -> None:
        """Write the outbox row, as the transaction's last statement: one for all its keys.

        Those of triggers become part of it, so that nothing is owed twice, and raw SQL of
        the transaction is acted on right after its commit.
        """
        for model, rows in adopt_caught(self._using):
            self.add(model, rows)
        self._owed = owe(self._using, self.keys)

    def after_rollback(self) -> None:
        """End the quarantines: the rows are as they were."""
        for alias in self.quarantined:
            self.end_quarantine(alias)

    def after_commit(self) -> None:
        """Delete the keys, and drop the outbox row if every node confirms."""
        _settle(self, self._using, self._owed)


def _hook(connection: BaseDatabaseWrapper) -> None:
    """Have a connection tell its batch of commit and rollback.

    Django has no signal before a commit nor after a rollback; its transactions end by
    these two methods of the connection, once each.
    """
    if getattr(connection, "_ringcache_hooked", False):
        return
    commit: Callable[[], None] = connection.commit
    rollback: Callable[[], None] = connection.rollback

    def commit_with_outbox() -> None:
        batch = _standing_batch(connection)
        if batch is not None:
            batch.before_commit()
        commit()
        if batch is not None and batch.is_manual:
            setattr(connection, _ATTRIBUTE, None)
            batch.after_commit()

    def rollback_with_quarantines() -> None:
        batch: _TransactionBatch | None = getattr(connection, _ATTRIBUTE, None)
        try:
            rollback()
        finally:
            setattr(connection, _ATTRIBUTE, None)
            if batch is not None:
                batch.after_rollback()

    connection.commit = commit_with_outbox  # type: ignore[method-assign]
    connection.rollback = rollback_with_quarantines  # type: ignore[method-assign]
    connection._ringcache_hooked = True  # type: ignore[attr-defined]


def _settle(
    batch: Batch, using: str, owed: int | None, written: tuple[type[models.Model], Rows] | None = None
) -> None:
    """Do after a commit what the batch owes. Raises nothing: the data is committed.

    Args:
        batch: The changes.
        using: The database that they are in.
        owed: The outbox row's key, if there is one.
        written: What a statement in autocommit wrote; a trigger may owe the same.
    """
    try:
        caught: list[int] = []
        if written is not None:
            caught, changes = caught_of(using, *written)
            for model, rows in changes:
                batch.add(model, rows)
        left = batch.delete()
        if left:
            _log_left(sum(map(len, left.values())), in_outbox=owed is not None)
        else:
            drop(using, owed, *caught)
        batch.refill()
    except Exception:
        logger.exception("an invalidation was not finished; the relay will act on it again")


def _log_left(count: int, *, in_outbox: bool) -> None:
    """Say that keys could not be invalidated: while a node is down that is so of many a write."""
    if came := _left.to_log(count):
        fate = "the relay goes on trying" if in_outbox else "they stand until they expire"
        extra = {"event": "deletes_left", "count": came}
        logger.error("%d keys could not be invalidated; %s", came, fate, extra=extra)


def prepare_write(model: type[models.Model], rows: Rows, using: str) -> Prepared | None:
    """Make ready for a statement that changes rows: quarantine, and in autocommit the intent.

    Returns:
        For autocommit what ``finish_write`` takes; None inside a transaction.

    Raises:
        NodeUnavailableError: A strict key's node did not confirm; the write must not be made.
    """
    if not dependents_of(model):
        return None
    connection, rows = connections[using], list(rows)
    if is_in_transaction(connection):
        if any(dependent.is_strict for _, dependent in dependents_of(model)):
            _open_batch(connection).quarantine(model, rows)
            _bound_transaction(connection)
        return None
    batch = Batch()
    batch.add(model, rows)
    owed = owe(using, batch.keys, is_intent=True)
    try:
        batch.quarantine(model, rows)
    except BaseException:
        drop(using, owed)
        raise
    return batch, owed


def _bound_transaction(connection: BaseDatabaseWrapper) -> None:
    """Have Postgres end the transaction before its quarantines lapse (version 17 and later)."""
    if connection.vendor != "postgresql" or connection.pg_version < POSTGRES_17:  # type: ignore[attr-defined]
        return
    shortest = min(
        (ring_options(alias).quarantine_timeout for alias in ring_aliases()), default=QUARANTINE_SECONDS
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('transaction_timeout', %s, true)", [f"{int(shortest * 900)}ms"])


def finish_write(
    prepared: tuple[Batch, int | None], model: type[models.Model], rows: Rows, using: str
) -> None:
    """Delete what a statement in autocommit made wrong; it is committed."""
    batch, owed = prepared
    rows = list(rows)
    batch.add(model, rows)
    _settle(batch, using, owed, (model, rows))


def invalidate_rows(model: type[models.Model], rows: Rows, using: str) -> None:
    """Delete what is cached of changed rows: now in autocommit, else after the commit.

    Args:
        model: The rows' model.
        rows: Their columns by attribute name, the primary key's at least.
        using: The database alias that they changed in.
    """
    if not dependents_of(model):
        return
    connection = connections[using]
    if is_in_transaction(connection):
        _open_batch(connection).add(model, rows)
    else:
        finish_write((Batch(), None), model, rows, using)


def invalidate_keys(alias: str, keys: Iterable[bytes], using: str) -> None:
    """Delete keys of a cache alias: now in autocommit, else after the commit."""
    connection = connections[using]
    if is_in_transaction(connection):
        _open_batch(connection).keys.setdefault(alias, set()).update(keys)
    else:
        batch = Batch()
        batch.keys[alias] = set(keys)
        _settle(batch, using, owe(using, batch.keys))


def is_pending(alias: str, key: bytes, using: str) -> bool:
    """Return whether the open transaction has changed the row behind a key."""
    batch = _standing_batch(connections[using])
    return batch is not None and key in batch.keys.get(alias, ())


def is_in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a statement now is committed by a later one."""
    if connection.connection is None:  # which must not be opened to find out, nor can be in asyncio
        return not connection.settings_dict["AUTOCOMMIT"]
    return bool(connection.in_atomic_block or not connection.autocommit)


def _open_batch(connection: BaseDatabaseWrapper) -> _TransactionBatch:
    batch = _standing_batch(connection)
    if batch is None:
        batch = _TransactionBatch(connection)
        setattr(connection, _ATTRIBUTE, batch)
    return batch


def _standing_batch(connection: BaseDatabaseWrapper) -> _TransactionBatch | None:
    batch: _TransactionBatch | None = getattr(connection, _ATTRIBUTE, None)
    return batch if batch is not None and batch.stands(connection) else None
