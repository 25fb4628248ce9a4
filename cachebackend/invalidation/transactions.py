"""Deletes that wait for the commit, and that a crash does not lose.

    1. inside a transaction, the keys of changed rows are collected;
    2. the last statement before the commit writes one outbox row with these keys, which the
       commit makes durable. Strict keys are then put in quarantine;
    3. after the commit the keys are deleted on the nodes. Only then does the writer continue, so
       it and every later reader get the new row;
    4. if every node confirmed, the outbox row is deleted. If a node did not, or the process
       died, the row remains, and the relay deletes the keys again;
    5. after a rollback, nothing was deleted and no delete is pending.

Deleting inside the transaction would be wrong: a reader that misses before the commit takes a
lease after the delete, loads the old row, and its lease is valid, so it fills the old row.

A quarantine before step 2 is not needed. Until the commit every reader must get the old row, and
a reader that loaded it cannot fill it after the quarantine, which replaces its lease.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

from django.db import connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from cachebackend.backend.fill_rules import connect_pending_keys
from cachebackend.backend.open_transactions import OpenTransaction, is_aborted, is_in_transaction
from cachebackend.clock import SYSTEM_CLOCK, LogRateLimit
from cachebackend.conf import ring_aliases, ring_options
from cachebackend.invalidation.deletes import PendingDeletes
from cachebackend.invalidation.outbox import delete_rows, write_row
from cachebackend.invalidation.outbox_table import has_outbox
from cachebackend.invalidation.trigger_rows import has_trigger_rows, take_trigger_rows
from cachebackend.invalidation.watched import KeysByAlias, Row, dependents_of

__all__ = [
    "each_statement_in_a_transaction",
    "invalidate_rows",
    "invalidate_together",
    "open_deletes",
    "pending_keys",
]

logger = logging.getLogger("cachebackend")
#: The attribute of a database connection that holds the pending deletes of its transaction.
_ATTRIBUTE = "_ringcache_deletes"
#: Seconds; the default of the option ``quarantine_timeout``, for a project without a ring cache.
QUARANTINE_SECONDS = 30.0
#: The classes of SQLSTATE of an error after which nobody knows whether the commit took place.
_IN_DOUBT = ("08", "57")
_unconfirmed_log = LogRateLimit(SYSTEM_CLOCK)
Rows: TypeAlias = Iterable[Row]


class TransactionDeletes(PendingDeletes):
    """The pending deletes of a connection's open transaction."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__(connection.alias)
        self._outbox_row: int | None = None
        self._is_committed = False
        #: Whether the transaction is one that Django does not commit itself, because autocommit is
        #: off: then Django runs no callbacks after the commit.
        self.is_manual = not (connection.in_atomic_block and connection.commit_on_exit)
        #: The session of a manual transaction. A transaction does not outlive its session.
        self._session = connection.connection
        self._callback = self._run_captured
        self._was_captured = False
        _wrap_transaction_methods(connection)
        if not self.is_manual:
            connection.on_commit(self._callback)

    def is_scheduled(self, connection: BaseDatabaseWrapper) -> bool:
        """Return whether the commit of the connection's open transaction will delete the keys.

        It will not once the savepoint in which the deletes were created, or the whole
        transaction, is rolled back: Django has then removed the callback. Looking for the callback
        is reliable. Remembering the transaction is not: one ``atomic`` object can begin many
        transactions. Deletes that an outer savepoint created also hold the keys of inner ones, so
        after a rollback of an inner savepoint they delete too much at worst.
        """
        if self.is_manual:
            return self._session is connection.connection
        return any(entry[1] == self._callback for entry in connection.run_on_commit)

    def schedule_again(self, connection: BaseDatabaseWrapper) -> None:
        """Add the callback once more if a test has captured and run it: another change follows."""
        if self._was_captured:
            self._was_captured = False
            connection.on_commit(self._callback)

    def before_commit(self, connection: BaseDatabaseWrapper) -> None:
        """Write the outbox row, as the transaction's last statement, and quarantine strict keys.

        Raises:
            NodeUnavailableError: A strict key's node did not confirm; the transaction must be
                rolled back.
        """
        self._outbox_row = write_row(self.using, self.keys)
        if self.strict_keys:
            _limit_idle_time(connection)
            self.quarantine()

    def commit_failed(self, error: BaseException) -> None:
        """Leave the quarantines to expire if nobody knows whether the commit took place."""
        sqlstate = getattr(error.__cause__, "sqlstate", None) or ""
        if not sqlstate or sqlstate.startswith(_IN_DOUBT):
            self.leave_quarantines()

    def committed(self) -> None:
        """Record that the commit took place."""
        self._is_committed = True

    @property
    def is_committed(self) -> bool:
        """Whether the commit took place."""
        return self._is_committed

    def after_commit(self) -> None:
        """Delete the keys, and the outbox row if every node confirms.

        Raises nothing: the data is committed.
        """
        try:
            unconfirmed = self.delete()
            if unconfirmed:
                _log_unconfirmed(sum(map(len, unconfirmed.values())), in_outbox=self._outbox_row is not None)
            else:
                delete_rows(self.using, self._outbox_row)
            self.refill()
        except Exception:
            logger.exception("an invalidation was not finished; the relay will retry it")

    def _run_captured(self) -> None:
        """Delete the keys inside a transaction whose callbacks a test captured and now runs.

        It is the callback that Django removes when it rolls back the savepoint in which the
        deletes were created. After a real commit it does nothing: ``after_commit`` precedes all
        callbacks.
        """
        if not self._is_committed:
            self._was_captured = True
            self.delete()


def _wrap_transaction_methods(connection: BaseDatabaseWrapper) -> None:
    """Replace three methods of a connection by ones that call its pending deletes as well.

    Django has no signal before a commit or after a rollback, and its callbacks after a commit run
    in their order until one raises. The deletes must precede all of them: a callback that reads
    the cache must get the new row.
    """
    if getattr(connection, "_ringcache_wrapped", False):
        return
    commit: Callable[[], None] = connection.commit
    rollback: Callable[[], None] = connection.rollback
    run_callbacks: Callable[[], None] = connection.run_and_clear_commit_hooks

    def commit_with_deletes() -> None:
        try:
            pending_keys(connection)  # it takes in the rows that triggers wrote
            deletes = scheduled_deletes(connection)
            if deletes is not None:
                deletes.before_commit(connection)
        except BaseException:
            rollback_with_deletes()  # Django rolls back after database errors only
            raise
        if deletes is None:
            commit()
            return
        try:
            commit()
        except BaseException as error:
            deletes.commit_failed(error)
            raise
        deletes.committed()
        if deletes.is_manual:
            setattr(connection, _ATTRIBUTE, None)
            deletes.after_commit()
            commit()  # deleting the outbox row has begun a transaction

    def rollback_with_deletes() -> None:
        deletes: TransactionDeletes | None = getattr(connection, _ATTRIBUTE, None)
        setattr(connection, _ATTRIBUTE, None)
        try:
            rollback()
        finally:
            if deletes is not None:
                deletes.end_quarantines()

    def run_deletes_and_callbacks() -> None:
        deletes: TransactionDeletes | None = getattr(connection, _ATTRIBUTE, None)
        if deletes is not None and deletes.is_committed:
            setattr(connection, _ATTRIBUTE, None)
            # A transaction of its own, such as a refill's, must not run the callbacks of this one
            callbacks, connection.run_on_commit = connection.run_on_commit, []
            deletes.after_commit()
            connection.run_on_commit = callbacks + connection.run_on_commit
        run_callbacks()

    connection.commit = commit_with_deletes  # type: ignore[method-assign]
    connection.rollback = rollback_with_deletes  # type: ignore[method-assign]
    connection.run_and_clear_commit_hooks = run_deletes_and_callbacks  # type: ignore[method-assign]
    connection._ringcache_wrapped = True  # type: ignore[attr-defined]


def _log_unconfirmed(count: int, *, in_outbox: bool) -> None:
    """Log that keys could not be invalidated; rate-limited, for while a node is down many writes do so."""
    if total := _unconfirmed_log.to_log(count):
        outcome = "the relay retries them" if in_outbox else "their old values are served until they expire"
        extra = {"event": "deletes_left", "count": total}
        logger.error("%d keys could not be invalidated; %s", total, outcome, extra=extra)


def _limit_idle_time(connection: BaseDatabaseWrapper) -> None:
    """Make Postgres end the session if the commit does not arrive before the quarantines expire.

        1. the session is idle in its transaction from the end of this statement on;
        2. the strict keys are put in quarantine for ``quarantine_timeout`` seconds;
        3. the process is suspended for longer. Postgres ends the session and rolls back;
        4. the quarantines expire, and a reader fills the old row, which is the right one;
        5. the process resumes, and its COMMIT fails.

    Without the limit the COMMIT of step 5 would succeed. ``transaction_timeout`` would not do: if
    the role has one, its timer runs already and a new value does not set it again. A limit of the
    role or the session that is shorter remains.
    """
    if connection.vendor != "postgresql":
        return
    shortest = min(
        (ring_options(alias).quarantine_timeout for alias in ring_aliases()), default=QUARANTINE_SECONDS
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('idle_in_transaction_session_timeout', %s, true) FROM pg_settings "
            "WHERE name = 'idle_in_transaction_session_timeout' AND NOT setting::int BETWEEN 1 AND %s",
            [f"{int(shortest * 900)}ms", int(shortest * 900)],
        )


def each_statement_in_a_transaction(connection: BaseDatabaseWrapper) -> AbstractContextManager[Any]:
    """Return a context in which a statement and its outbox row are committed together."""
    if is_in_transaction(connection):
        return nullcontext()
    return transaction.atomic(using=connection.alias, savepoint=False)


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
    with each_statement_in_a_transaction(connection):
        open_deletes(connection).add_rows(model, rows)


def invalidate_together(deletes: PendingDeletes) -> None:
    """Delete keys of rows and tags of one call: after the commit in a transaction, at once in autocommit."""
    connection = connections[deletes.using]
    if not is_in_transaction(connection):
        # Their rows are changed already. A node that is down must not prevent the outbox row
        deletes.strict_keys.clear()
        if not has_outbox(deletes.using):
            deletes.delete()
            deletes.refill()
            return
    with each_statement_in_a_transaction(connection):
        open_deletes(connection).add(deletes)


def pending_keys(connection: BaseDatabaseWrapper) -> KeysByAlias:
    """Return the keys that the open transaction of a connection deletes at its commit, by cache alias.

    If statements ran that nothing but a trigger sees, the rows that triggers named are added first,
    in place of their outbox rows. So no key is in two outbox rows, and keys that raw SQL made wrong
    are deleted right after the commit.
    """
    open_transaction = OpenTransaction.of(connection)
    if open_transaction.has_new_changes and not is_aborted(connection):
        if has_trigger_rows(connection.alias):
            deletes = open_deletes(connection)
            for model, rows in take_trigger_rows(connection.alias):
                deletes.add_rows(model, rows)
        open_transaction.changes_are_known()
    scheduled = scheduled_deletes(connection)
    return {} if scheduled is None else scheduled.keys


def _watch_connection(*, connection: BaseDatabaseWrapper, **_: Any) -> None:
    """See the commits of a connection from the first one on: raw SQL alone opens no deletes."""
    _wrap_transaction_methods(connection)


connect_pending_keys(pending_keys)
connection_created.connect(_watch_connection, dispatch_uid="ringcache:transactions")


def open_deletes(connection: BaseDatabaseWrapper) -> TransactionDeletes:
    """Return the pending deletes of the open transaction; create them if there are none."""
    deletes = scheduled_deletes(connection)
    if deletes is None:
        deletes = TransactionDeletes(connection)
        setattr(connection, _ATTRIBUTE, deletes)
        OpenTransaction.of(connection).note_changes()
    else:
        deletes.schedule_again(connection)
    return deletes


def scheduled_deletes(connection: BaseDatabaseWrapper) -> TransactionDeletes | None:
    """Return the pending deletes of the open transaction, if there are any."""
    deletes: TransactionDeletes | None = getattr(connection, _ATTRIBUTE, None)
    return deletes if deletes is not None and deletes.is_scheduled(connection) else None
