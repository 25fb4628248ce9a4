"""What the open transaction of a database connection has done so far.

The driver says whether a transaction is open, however it was begun: by Django, by ``BEGIN`` as SQL, or by
``transaction()`` of psycopg. Whether it has changed rows only the database knows. A fill asks the
database; a hit must not cost a statement. So a wrapper of each connection looks at the statements as
they run, and remembers whether one may have changed rows. That is a hint for hits: ``SELECT f() FROM t``
may write, and ``cursor.copy`` and ``callproc`` run past the wrapper. If changes are rolled back, that is
remembered for good: what was computed from them may not be stored later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from cachebackend.backend.statement_texts import (
    makes_settings,
    may_change_rows,
    resets_settings,
    rolls_back,
    savepoint_of,
    statement_text,
    without_begin,
)
from cachebackend.interrupts import raise_interrupt

__all__ = [
    "OpenTransaction",
    "any_begun",
    "any_changed",
    "any_may_keep_snapshot",
    "any_open",
    "connections_in_transactions",
    "found_by",
    "has_changes",
    "has_own_settings",
    "is_aborted",
    "is_in_pipeline",
    "is_in_transaction",
    "is_open",
    "is_unmanaged",
    "keeps_snapshot",
    "roll_back_or_close",
    "rollbacks",
    "was_rolled_back_since",
]

#: The attribute of a database connection that holds its ``OpenTransaction``.
_ATTRIBUTE = "_ringcache_transaction"
#: The states of a Postgres connection, in libpq's PGTransactionStatusType: a statement runs, a transaction
#: is open, a transaction has failed.
_ACTIVE, _INTRANS, _INERROR = 1, 2, 3


class OpenTransaction:
    """The statements that ran in the open transaction of one connection.

    Attributes:
        has_statements: Whether the wrapper saw a statement.
        has_new_changes: Whether a statement that may have changed rows ran since
            ``changes_are_known`` was called.
        has_unknown_changes: Whether one ran outside of ``of_known_rows``, as raw SQL does.
        has_reset_settings: Whether a statement may have ended the settings of the transaction.
        has_own_settings: Whether a statement has made a setting on which rows and results of queries depend.
        sees_commits: Whether each statement sees what is committed when it begins; None: the
            database was not asked yet. It cannot change once a statement ran. It is not remembered
            of a transaction that Django does not manage, whose end may not be seen.
        rolled_back: The number of the last rollback of changes on this connection, also of a
            savepoint; 0: there was none.
        found: What was found in the database with the settings that the transaction has made. Others must
            not use it.
    """

    has_statements: bool
    has_new_changes: bool
    has_unknown_changes: bool
    has_reset_settings: bool
    has_own_settings: bool
    sees_commits: bool | None
    rolled_back = 0

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection
        self._changes_known_rows = False
        #: The names of savepoints before which the transaction had no changes. A later savepoint may have the
        #: same name, and hides the first one. Databases differ in whether ``x`` and ``"X"`` are the same.
        self._before_changes: set[str] = set()
        self.found: dict[Any, Any] = {}
        self._as_begun, self._as_changed = ref(self, _begun.discard), ref(self, _changed.discard)
        _connections.add(ref(self, _connections.discard))
        if connection.vendor == "sqlite":
            _of_sqlite.add(ref(self, _of_sqlite.discard))
        self._begin(is_committed=True)
        # At the front, because ``connection.execute_wrapper`` removes the last one at its end
        connection.execute_wrappers.insert(0, self._around_statement)
        connection.commit = self._ending(connection.commit, commits=True)  # type: ignore[method-assign]
        connection.rollback = self._ending(connection.rollback, commits=False)  # type: ignore[method-assign]
        connection.close = self._closing(connection.close)  # type: ignore[method-assign]

    @classmethod
    def of(cls, connection: BaseDatabaseWrapper) -> OpenTransaction:
        """Return the object of a connection; the first call for a connection creates it."""
        transaction: OpenTransaction | None = getattr(connection, _ATTRIBUTE, None)
        if transaction is None:
            transaction = cls(connection)
            setattr(connection, _ATTRIBUTE, transaction)
            if is_in_transaction(connection):  # its statements so far are unknown
                transaction._note_statement()
                transaction.note_changes()
                transaction.has_unknown_changes = True
        return transaction

    def note_changes(self) -> None:
        """Record that rows may have changed, or that something else waits for the commit."""
        self.has_new_changes = True
        _changed.add(self._as_changed)

    def changes_are_known(self) -> None:
        """Record that nothing is unknown of the changes so far."""
        self.has_new_changes = False

    @property
    def has_changes(self) -> bool:
        """Whether a statement that may have changed rows ran, of whichever table."""
        return self._as_changed in _changed

    @contextmanager
    def of_known_rows(self) -> Iterator[None]:
        """Return a context for statements that change no row without adding its keys to pending deletes."""
        before, self._changes_known_rows = self._changes_known_rows, True
        try:
            yield
        finally:
            self._changes_known_rows = before

    def has_begun(self) -> bool:
        """Return whether the transaction may have a snapshot: a statement ran, whether it was seen or not."""
        connection = self.connection
        if connection.vendor == "postgresql":  # Django sends BEGIN with the first statement
            return is_open(connection)
        return self.has_statements or is_unmanaged(connection)

    def _begin(self, *, is_committed: bool) -> None:
        if not is_committed:
            self._note_rollback()
        self.has_statements = self.has_reset_settings = False
        self.sees_commits = None
        _begun.discard(self._as_begun)
        self._forget_changes()
        self._before_changes.clear()

    def _forget_changes(self) -> None:
        self.has_new_changes = self.has_unknown_changes = self.has_own_settings = False
        self.found.clear()
        _changed.discard(self._as_changed)

    def _around_statement(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        connection, savepoint = self.connection, None
        was_in_transaction = is_in_transaction(connection)
        if was_in_transaction:
            if not self.has_statements:
                self._note_statement()
            text = statement_text(sql, connection)
            savepoint = savepoint_of(text)
            self._note_before(text, is_savepoint=savepoint is not None)
        try:
            result = execute(sql, params, many, context)
        finally:
            if self.has_statements and not is_in_transaction(connection):
                self._begin(is_committed=False)  # by COMMIT or ROLLBACK as SQL: nobody knows
            elif not was_in_transaction and is_open(connection):
                self._note_begun_by(statement_text(sql, connection))
        if savepoint is not None:
            self._follow_savepoint(savepoint.action, savepoint.name)
        return result

    def _note_begun_by(self, text: str) -> None:
        """Record what the statements after BEGIN may have done, in a text that began a transaction."""
        rest = without_begin(text).strip()
        if rest or not text:
            self._note_statement()
            self._note_before(rest, is_savepoint=False)

    def _note_before(self, sql: str, *, is_savepoint: bool) -> None:
        """Record what a statement may do; it may fail after it has done some of it."""
        if rolls_back(sql):  # to a savepoint
            self._note_rollback()
            self.found.clear()
        if not self._changes_known_rows and resets_settings(sql):
            self.has_reset_settings = True
        if self._before_changes and not is_savepoint and (not sql or "savepoint" in sql.lower()):
            self._before_changes.clear()  # it may make one of the same name
        if makes_settings(sql):
            self.has_own_settings = True
            self.found.clear()
            self.note_changes()
        is_known = self.has_new_changes and (self.has_unknown_changes or self._changes_known_rows)
        if not is_known and not is_savepoint and may_change_rows(sql):
            self.note_changes()
            self.has_unknown_changes = self.has_unknown_changes or not self._changes_known_rows

    def _follow_savepoint(self, action: str, name: str) -> None:
        """Record what a statement of a savepoint has done.

        A rollback to a savepoint that was made after changes leaves them, and what was noticed of them since
        is lost. So it counts as a change.
        """
        if action == "SAVEPOINT" and not self.has_changes:
            self._before_changes.add(name)
        elif action == "ROLLBACK" and name in self._before_changes:
            has_settings = self.has_own_settings and self.connection.vendor == "mysql"  # it keeps them
            self._forget_changes()
            if has_settings:
                self.has_own_settings = True
                self.note_changes()
        elif action == "ROLLBACK" and self.has_changes:
            self.note_changes()
            self.has_unknown_changes = self.has_unknown_changes or not self._changes_known_rows
        elif action != "ROLLBACK":
            self._before_changes.discard(name)

    def _note_statement(self) -> None:
        self.has_statements = True
        _begun.add(self._as_begun)

    def _note_rollback(self) -> None:
        """Record that the changes of the transaction so far are rolled back, if there are any."""
        global _rollbacks  # noqa: PLW0603  # there is one count for a process
        if self.has_changes:
            _rollbacks += 1
            self.rolled_back = _rollbacks

    def _ending(self, end: Callable[[], None], *, commits: bool) -> Callable[[], None]:
        """Return a method that ends a transaction, so that it also forgets the statements.

        The driver refuses to end a transaction in the middle of psycopg's ``transaction()``: it continues.
        """

        def end_and_forget() -> None:
            has_ended = is_committed = False
            try:
                end()
                has_ended, is_committed = True, commits
            finally:
                if has_ended or not is_open(self.connection):
                    self._begin(is_committed=is_committed)

        return end_and_forget

    def _closing(self, close: Callable[[], None]) -> Callable[[], None]:
        """Return a method that closes the connection, so that it also forgets the statements."""

        def close_and_forget() -> None:
            close()
            # Django leaves SQLite in memory open: its transaction continues
            if self.connection.connection is None or self.connection.closed_in_transaction:
                self._begin(is_committed=False)

        return close_and_forget


#: The connections of this process; those to SQLite; those whose transaction ran a statement; those where it
#: may have changed rows. Each reference calls only a method of its set when the connection no longer exists:
#: Python ignores what a signal handler raises in a function that a reference calls.
_connections: set[ref[OpenTransaction]] = set()
_of_sqlite: set[ref[OpenTransaction]] = set()
_begun: set[ref[OpenTransaction]] = set()
_changed: set[ref[OpenTransaction]] = set()
#: The number of rollbacks of changes in this process, in all threads.
_rollbacks = 0


def any_begun() -> bool:
    """Return whether a statement was seen in an open transaction of this process, in any thread."""
    return bool(_begun)


def any_changed() -> bool:
    """Return whether an open transaction of this process seems to have changed rows, in any thread."""
    return bool(_changed)


def has_changes(using: str) -> bool:
    """Return whether this thread's open transaction of a database seems to have changed rows."""
    return any_changed() and OpenTransaction.of(connections[using]).has_changes


def has_own_settings(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the open transaction has made a setting on which rows and results of queries depend."""
    return any_changed() and OpenTransaction.of(connection).has_own_settings


def found_by(connection: BaseDatabaseWrapper, process: dict[Any, Any]) -> dict[Any, Any]:
    """Return where to remember what is found in a database: for the process, or for the open transaction.

    If the transaction has made settings, such as a ``search_path``, others may find something else.
    """
    return OpenTransaction.of(connection).found if has_own_settings(connection) else process


def any_open() -> bool:
    """Return whether a transaction of this process is open, in any thread; it asks each connection."""
    transactions = [reference() for reference in _connections.copy()]
    return any(each is not None and is_in_transaction(each.connection) for each in transactions)


def rollbacks() -> int:
    """Return the number of rollbacks of changes so far in this process, in all threads."""
    return _rollbacks


def was_rolled_back_since(count: int) -> bool:
    """Return whether changes of this thread were rolled back since ``rollbacks`` returned a number."""
    if _rollbacks == count:
        return False
    return any(
        OpenTransaction.of(each).rolled_back > count for each in connections.all(initialized_only=True)
    )


def is_in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the next statement is committed by a later one, and not on its own."""
    if connection.connection is None:  # do not connect for this question: asyncio code cannot
        return not connection.settings_dict["AUTOCOMMIT"]
    return connection.in_atomic_block or not connection.autocommit or is_open(connection)


def is_open(connection: Any) -> bool:
    """Return whether the driver has a transaction open; False if the driver does not know, as on MySQL."""
    if connection.vendor == "postgresql":
        return _status(connection) in {_ACTIVE, _INTRANS, _INERROR}
    driver = connection.connection
    if connection.vendor != "sqlite" or driver is None:
        return False
    try:
        return bool(driver.in_transaction)
    except connection.Database.ProgrammingError:  # another thread is about to close its connection
        return False


def is_unmanaged(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a transaction is open that Django did not begin, and will not commit.

    Without autocommit, psycopg's ``transaction()`` commits what it has begun, and only psycopg knows what.
    """
    if connection.in_atomic_block and (connection.autocommit or connection.commit_on_exit):
        return False
    return (connection.autocommit or _is_in_driver_block(connection)) and is_open(connection)


def _is_in_driver_block(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the connection is in psycopg's ``transaction()``."""
    return getattr(connection.connection, "_num_transactions", 0) > 0


def any_may_keep_snapshot() -> bool:
    """Return whether this process has connections to SQLite, for which ``keeps_snapshot`` must be asked."""
    return bool(_of_sqlite)


def keeps_snapshot(connection: Any) -> bool:
    """Return whether a statement of SQLite that is not read to its end may keep a snapshot.

    With a write-ahead log, all statements of a connection read the snapshot that the first one has taken,
    until none is open any more, also outside of transactions:

        1. reader    Author.objects.iterator(), which reads a row  -> the snapshot
        2. writer    COMMIT, DEL key
        3. reader    acquires the lease, and reads the old row

    SQLite refuses to replace a function while a statement is open; nothing else shows it. Ask in the thread
    of the connection: in another one the question could hang, because SQLite waits for the statement, and the
    statement may wait for Python.
    """
    driver = connection.connection
    if connection.vendor != "sqlite" or driver is None:
        return False
    if connection.allow_thread_sharing:
        return _has_write_ahead_log(driver)
    try:
        for _ in range(2):  # the first time, there may be none to replace
            driver.create_function("ringcache_open_statements", 0, _nothing)
    except connection.Database.Error:
        return _has_write_ahead_log(driver)
    return False


def _nothing() -> None:
    """Do nothing."""


def _has_write_ahead_log(driver: Any) -> bool:
    """Return whether a statement of SQLite may read a snapshot: else nobody can commit while it is open."""
    return bool(driver.execute("PRAGMA journal_mode").fetchone()[0] == "wal")


def is_aborted(connection: Any) -> bool:
    """Return whether a query would raise now: the transaction has failed, or another statement still runs."""
    if connection.needs_rollback:
        return True
    return connection.vendor == "postgresql" and _status(connection) in {_ACTIVE, _INERROR}


def roll_back_or_close(connection: BaseDatabaseWrapper) -> None:
    """Roll back because of an exception, and raise no other error in its place.

    The connection is closed if it cannot roll back: it may still run a statement that was interrupted.
    """
    try:
        connection.rollback()
    except Error as error:
        connection.close()
        raise_interrupt(error)


def is_in_pipeline(connection: Any) -> bool:
    """Return whether psycopg sends statements in a pipeline, and commits them only at its next sync."""
    driver = connection.connection
    return driver is not None and bool(getattr(getattr(driver, "info", None), "pipeline_status", 0))


def _status(connection: Any) -> int | None:
    driver = connection.connection
    return None if driver is None else int(driver.info.transaction_status)


def connections_in_transactions() -> list[BaseDatabaseWrapper]:
    """Return the database connections of this thread that are in a transaction."""
    return [each for each in connections.all(initialized_only=True) if is_in_transaction(each)]


def _watch(*, connection: BaseDatabaseWrapper, **_: Any) -> None:
    # What ran on an earlier connection was rolled back when that connection ended
    OpenTransaction.of(connection)._begin(is_committed=False)


connection_created.connect(_watch, dispatch_uid="ringcache")
