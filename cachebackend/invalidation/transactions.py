"""Deletes that wait for the commit, and that a crash does not lose.

    1. inside a transaction, the keys of changed rows are collected;
    2. its last statement writes one outbox row with these keys, which the commit makes durable;
    3. after the commit the keys are deleted on the nodes, all in one round trip. Only then does
       the writer continue, so it and every later reader get the new row;
    4. if every node confirmed, the outbox row is deleted. If a node did not, or the process
       died, the row remains, and the relay deletes the keys again;
    5. after a rollback, nothing was deleted and no delete is pending.

Deleting inside the transaction would be wrong: a reader that misses before the commit takes a
lease after the delete, loads the old row, and its lease is valid, so it fills the old row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper

from cachebackend.clock import SYSTEM_CLOCK, LogRateLimit
from cachebackend.conf import ring_aliases, ring_options
from cachebackend.invalidation.deletes import PendingDeletes
from cachebackend.invalidation.outbox import delete_rows, write_row
from cachebackend.invalidation.trigger_rows import find_trigger_rows, take_trigger_rows
from cachebackend.invalidation.watched import Row, add_keys, dependents_of

__all__ = [
    "PreparedWrite",
    "finish_write",
    "invalidate_keys",
    "invalidate_rows",
    "is_in_transaction",
    "is_pending",
    "prepare_write",
]

logger = logging.getLogger("cachebackend")
#: The attribute of a database connection that holds the pending deletes of its transaction.
_ATTRIBUTE = "_ringcache_deletes"
#: The first version that has ``transaction_timeout``.
POSTGRES_17 = 170_000
#: Seconds; the default of the option ``quarantine_timeout``, for a project without a ring cache.
QUARANTINE_SECONDS = 30.0
_unconfirmed_log = LogRateLimit(SYSTEM_CLOCK)
Rows: TypeAlias = Iterable[Row]


class PreparedWrite(NamedTuple):
    """A statement in autocommit that is about to change rows.

    Attributes:
        deletes: What the statement invalidates.
        intent: The primary key of its outbox row; None if there is none.
    """

    deletes: PendingDeletes
    intent: int | None


class _TransactionDeletes(PendingDeletes):
    """The pending deletes of a connection's open transaction."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__(connection.alias)
        self._outbox_row: int | None = None
        #: Whether autocommit was turned off by hand: then Django runs no callbacks after a commit.
        self.is_manual = not connection.in_atomic_block
        self._callback = self.after_commit
        _wrap_commit_and_rollback(connection)
        if not self.is_manual:
            connection.on_commit(self._callback)
            # Move it to the front: a callback that raises stops those behind it
            connection.run_on_commit.insert(0, connection.run_on_commit.pop())

    def is_scheduled(self, connection: BaseDatabaseWrapper) -> bool:
        """Return whether the commit of the connection's open transaction will delete the keys.

        It will not once the savepoint in which the deletes were created, or the whole
        transaction, is rolled back: Django has then removed the callback. Looking for the callback
        is reliable. Remembering the transaction is not: one ``atomic`` object can begin many
        transactions. Deletes that an outer savepoint created also hold the keys of inner ones, so
        after a rollback of an inner savepoint they delete too much at worst.
        """
        return self.is_manual or any(entry[1] == self._callback for entry in connection.run_on_commit)

    def before_commit(self) -> None:
        """Write the outbox row, as the transaction's last statement: one row for all its keys.

        The row takes in the rows that triggers wrote in this transaction, so no key is in two rows,
        and keys that raw SQL made wrong are deleted right after the commit.
        """
        for model, rows in take_trigger_rows(self.using):
            self.add_rows(model, rows)
        self._outbox_row = write_row(self.using, self.keys)

    def after_rollback(self) -> None:
        """End the quarantines: the rows have not changed."""
        self.end_quarantines()

    def after_commit(self) -> None:
        """Delete the keys, and the outbox row if every node confirms."""
        _delete_after_commit(self, self.using, self._outbox_row)


def _wrap_commit_and_rollback(connection: BaseDatabaseWrapper) -> None:
    """Replace two methods of a connection by ones that call its pending deletes as well.

    Django has no signal before a commit or after a rollback. Each of its transactions ends with
    one call of one of these methods.
    """
    if getattr(connection, "_ringcache_wrapped", False):
        return
    commit: Callable[[], None] = connection.commit
    rollback: Callable[[], None] = connection.rollback

    def commit_with_outbox() -> None:
        deletes = _scheduled_deletes(connection)
        if deletes is not None:
            deletes.before_commit()
        commit()
        if deletes is not None and deletes.is_manual:
            setattr(connection, _ATTRIBUTE, None)
            deletes.after_commit()

    def rollback_with_quarantines() -> None:
        deletes: _TransactionDeletes | None = getattr(connection, _ATTRIBUTE, None)
        try:
            rollback()
        finally:
            setattr(connection, _ATTRIBUTE, None)
            if deletes is not None:
                deletes.after_rollback()

    connection.commit = commit_with_outbox  # type: ignore[method-assign]
    connection.rollback = rollback_with_quarantines  # type: ignore[method-assign]
    connection._ringcache_wrapped = True  # type: ignore[attr-defined]


def _delete_after_commit(
    deletes: PendingDeletes,
    using: str,
    outbox_row: int | None,
    written: tuple[type[models.Model], Rows] | None = None,
) -> None:
    """Delete what a committed change invalidates. Raises nothing: the data is committed.

    Args:
        deletes: What the change invalidates.
        using: The database that was changed.
        outbox_row: The primary key of the outbox row, if there is one.
        written: The model and rows of a statement in autocommit: triggers may have written
            outbox rows that name the same rows.
    """
    try:
        trigger_rows: list[int] = []
        if written is not None:
            trigger_rows, changes = find_trigger_rows(using, *written)
            for model, rows in changes:
                deletes.add_rows(model, rows)
        unconfirmed = deletes.delete()
        if unconfirmed:
            _log_unconfirmed(sum(map(len, unconfirmed.values())), in_outbox=outbox_row is not None)
        else:
            delete_rows(using, outbox_row, *trigger_rows)
        deletes.refill()
    except Exception:
        logger.exception("an invalidation was not finished; the relay will retry it")


def _log_unconfirmed(count: int, *, in_outbox: bool) -> None:
    """Log that keys could not be invalidated; rate-limited, for while a node is down many writes do so."""
    if total := _unconfirmed_log.to_log(count):
        outcome = "the relay retries them" if in_outbox else "their old values are served until they expire"
        extra = {"event": "deletes_left", "count": total}
        logger.error("%d keys could not be invalidated; %s", total, outcome, extra=extra)


def prepare_write(model: type[models.Model], rows: Rows, using: str) -> PreparedWrite | None:
    """Prepare for a statement that changes rows: quarantine strict keys, and in autocommit write the intent.

    Returns:
        In autocommit, the argument of ``finish_write``; inside a transaction, None.

    Raises:
        NodeUnavailableError: A strict key's node did not confirm; the rows must not be written.
    """
    if not dependents_of(model):
        return None
    connection, rows = connections[using], list(rows)
    if is_in_transaction(connection):
        if any(dependent.is_strict for _, dependent in dependents_of(model)):
            _open_deletes(connection).quarantine(model, rows)
            _limit_transaction_time(connection)
        return None
    deletes = PendingDeletes(using)
    deletes.add_rows(model, rows)
    intent = write_row(using, deletes.keys, is_intent=True)
    try:
        deletes.quarantine(model, rows)
    except BaseException:
        delete_rows(using, intent)
        raise
    return PreparedWrite(deletes, intent)


def _limit_transaction_time(connection: BaseDatabaseWrapper) -> None:
    """Make Postgres 17 or later end the transaction before its quarantines expire."""
    if connection.vendor != "postgresql" or connection.pg_version < POSTGRES_17:  # type: ignore[attr-defined]
        return
    shortest = min(
        (ring_options(alias).quarantine_timeout for alias in ring_aliases()), default=QUARANTINE_SECONDS
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('transaction_timeout', %s, true)", [f"{int(shortest * 900)}ms"])


def finish_write(prepared: PreparedWrite, model: type[models.Model], rows: Rows, using: str) -> None:
    """Delete what a statement in autocommit made wrong; the statement is committed."""
    rows = list(rows)
    prepared.deletes.add_rows(model, rows)
    _delete_after_commit(prepared.deletes, using, prepared.intent, (model, rows))


def invalidate_rows(model: type[models.Model], rows: Rows, using: str) -> None:
    """Delete what is cached of changed rows: after the commit in a transaction, at once in autocommit.

    Args:
        model: The rows' model.
        rows: Their columns by attribute name; the primary key at least.
        using: The database alias that was changed.
    """
    if not dependents_of(model):
        return
    connection = connections[using]
    if is_in_transaction(connection):
        _open_deletes(connection).add_rows(model, rows)
    else:
        finish_write(PreparedWrite(PendingDeletes(using), None), model, rows, using)


def invalidate_keys(alias: str, keys: Iterable[bytes], using: str) -> None:
    """Delete keys of a cache alias: after the commit in a transaction, at once in autocommit."""
    connection = connections[using]
    if is_in_transaction(connection):
        add_keys(_open_deletes(connection).keys, {alias: keys})
    else:
        deletes = PendingDeletes(using)
        add_keys(deletes.keys, {alias: keys})
        _delete_after_commit(deletes, using, write_row(using, deletes.keys))


def is_pending(alias: str, key: bytes, using: str) -> bool:
    """Return whether the open transaction has changed the row that a key caches."""
    deletes = _scheduled_deletes(connections[using])
    return deletes is not None and key in deletes.keys.get(alias, ())


def is_in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the next statement is committed by a later one, and not on its own."""
    if connection.connection is None:  # do not connect for this question: asyncio code cannot
        return not connection.settings_dict["AUTOCOMMIT"]
    return bool(connection.in_atomic_block or not connection.autocommit)


def _open_deletes(connection: BaseDatabaseWrapper) -> _TransactionDeletes:
    """Return the pending deletes of the open transaction; create them if there are none."""
    deletes = _scheduled_deletes(connection)
    if deletes is None:
        deletes = _TransactionDeletes(connection)
        setattr(connection, _ATTRIBUTE, deletes)
    return deletes


def _scheduled_deletes(connection: BaseDatabaseWrapper) -> _TransactionDeletes | None:
    """Return the pending deletes of the open transaction, if there are any."""
    deletes: _TransactionDeletes | None = getattr(connection, _ATTRIBUTE, None)
    return deletes if deletes is not None and deletes.is_scheduled(connection) else None
