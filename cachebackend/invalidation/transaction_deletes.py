"""The pending deletes of one transaction: its outbox rows, quarantines, and deletes after the commit."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from cachebackend.backend.open_transactions import is_open, is_unmanaged
from cachebackend.clock import SYSTEM_CLOCK, LogRateLimit
from cachebackend.conf import ring_aliases, ring_options
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.confirmed_rows import delete_confirmed
from cachebackend.invalidation.outbox import write_row
from cachebackend.invalidation.pending_deletes import PendingDeletes

__all__ = ["CommittedDeletes", "TransactionDeletes"]

logger = logging.getLogger("cachebackend")
#: Seconds; the default of the option ``quarantine_timeout``, for a project without a ring cache.
QUARANTINE_SECONDS = 30.0
#: The classes of SQLSTATE of an error after which nobody knows whether the commit took place.
_IN_DOUBT = ("08", "57")
_unconfirmed_log = LogRateLimit(SYSTEM_CLOCK)


class CommittedDeletes(PendingDeletes):
    """Pending deletes whose outbox rows are committed with the change.

    Args:
        using: The alias of the database whose rows change.
    """

    def __init__(self, using: str) -> None:
        super().__init__(using)
        self._outbox_rows: list[int | None] = []

    def add_outbox_rows(self, pks: Iterable[int]) -> None:
        """Add outbox rows that a statement has written."""
        self._outbox_rows += pks

    def after_commit(self, *, only_keys: bool = False) -> None:
        """Delete the keys, and the outbox row if every node confirms.

        Raises nothing: the data is committed.

        Args:
            only_keys: Whether to leave the outbox row to the relay and load no row again: both would begin
                a transaction that nobody commits.
        """
        try:
            unconfirmed = self.delete()
            if unconfirmed:
                _log_unconfirmed(sum(map(len, unconfirmed.values())), in_outbox=any(self._outbox_rows))
            elif not only_keys:
                delete_confirmed(self.using, self._outbox_rows)
            if not only_keys:
                self.refill()
        except Exception as error:
            raise_interrupt(error)
            logger.exception("an invalidation was not finished; the relay will retry it")


class TransactionDeletes(CommittedDeletes):
    """The pending deletes of a connection's open transaction."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__(connection.alias)
        self._is_committed = False
        #: Whether the transaction is one that Django does not commit itself, because autocommit is
        #: off: then Django runs no callbacks after the commit.
        self.is_manual = not (connection.in_atomic_block and connection.commit_on_exit)
        #: Whether the program has begun the transaction past Django, as ``BEGIN`` in raw SQL does.
        self.is_unmanaged = is_unmanaged(connection)
        self._is_in_autocommit = connection.autocommit
        self._was_open = is_open(connection)
        #: The session of a manual transaction. A transaction does not outlive its session.
        self._session = connection.connection
        self._callback = self._run_captured
        self._was_captured = False
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
        if self._is_committed:
            return False
        if self.is_unmanaged and self._is_in_autocommit and not is_unmanaged(connection):
            return False
        if self.is_manual:
            return self._session is connection.connection
        return any(entry[1] == self._callback for entry in connection.run_on_commit)

    def has_ended(self, connection: BaseDatabaseWrapper) -> bool:
        """Return whether the transaction has ended past Django."""
        if self.is_unmanaged and self._is_in_autocommit:
            return not is_unmanaged(connection)
        return self.is_manual and self._was_open and not is_open(connection)

    def other_callbacks(self, connection: BaseDatabaseWrapper) -> list[Any]:
        """Return the callbacks of the transaction without the deletes' own.

        Django drops all later callbacks if a signal handler raises in one.
        """
        return [entry for entry in connection.run_on_commit if entry[1] != self._callback]

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
        self.write_outbox_row()
        if self.strict_keys:
            _limit_idle_time(connection)
            self.quarantine()

    def write_outbox_row(self) -> None:
        """Write the keys to the outbox, in the open transaction."""
        self._outbox_rows += [write_row(self.using, keys) for keys in self.outbox_parts]

    def add_written(self, other: TransactionDeletes) -> None:
        """Add the deletes of a statement that has its own outbox row."""
        self.add(other)
        self._outbox_rows += other._outbox_rows

    def commit_failed(self, error: BaseException) -> None:
        """Leave the quarantines to expire if nobody knows whether the commit took place."""
        if self._is_committed:  # a signal handler has raised after it
            return
        sqlstate = getattr(error.__cause__, "sqlstate", None) or ""
        if not sqlstate or sqlstate.startswith(_IN_DOUBT):
            self.leave_quarantines()

    def committed(self) -> None:
        """Record that the commit took place."""
        self._is_committed = True

    def _run_captured(self) -> None:
        """Delete the keys inside a transaction whose callbacks a test captured and now runs.

        It is the callback that Django removes when it rolls back the savepoint in which the
        deletes were created. After a real commit it does nothing: ``after_commit`` precedes all
        callbacks.
        """
        if not self._is_committed:
            self._was_captured = True
            self.delete()


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
