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

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from cachebackend.backend.fill_rules import connect_pending_keys
from cachebackend.backend.keys import ANY_KEY
from cachebackend.backend.open_transactions import (
    OpenTransaction,
    is_aborted,
    is_in_transaction,
    is_open,
    is_unmanaged,
    roll_back_or_close,
)
from cachebackend.backend.statement_texts import commits, releases_savepoint, statement_text
from cachebackend.invalidation.outbox_table import has_outbox
from cachebackend.invalidation.pending_deletes import PendingDeletes
from cachebackend.invalidation.transaction_deletes import TransactionDeletes
from cachebackend.invalidation.trigger_rows import may_have_trigger_rows, take_trigger_rows
from cachebackend.invalidation.watched import KeysByAlias
from cachebackend.invalidation.written_rows import WrittenChange

__all__ = [
    "each_statement_in_a_transaction",
    "has_changed_tables",
    "invalidate_rows",
    "invalidate_together",
    "open_deletes",
    "pending_keys",
]

#: The attribute of a database connection that holds the pending deletes of its transaction.
_ATTRIBUTE = "_ringcache_deletes"


def _wrap_transaction_methods(connection: BaseDatabaseWrapper) -> None:
    """Replace methods of a connection by ones that call its pending deletes as well.

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
            pending_keys(connection, True)  # it takes in the rows that triggers wrote
            deletes = scheduled_deletes(connection)
            if deletes is not None:
                deletes.before_commit(connection)
        except BaseException:
            roll_back_or_close(connection)  # Django rolls back after database errors only
            raise
        if deletes is None:
            commit()
            return
        try:
            commit()
            deletes.committed()
        except BaseException as error:
            deletes.commit_failed(error)
            raise
        if deletes.is_manual:
            setattr(connection, _ATTRIBUTE, None)
            deletes.after_commit()
            commit()  # deleting the outbox row has begun a transaction

    def rollback_with_deletes() -> None:
        _delete_if_ended(connection)
        deletes: TransactionDeletes | None = getattr(connection, _ATTRIBUTE, None)
        has_ended = False
        try:
            rollback()
            has_ended = True
        finally:
            if deletes is not None and (has_ended or not is_open(connection)):
                setattr(connection, _ATTRIBUTE, None)
                deletes.end_quarantines()

    def run_deletes_and_callbacks() -> None:
        try:
            _delete_after_commit(connection)
        finally:  # if a signal handler raises meanwhile, the transaction is committed all the same
            run_callbacks()

    connection.commit = commit_with_deletes  # type: ignore[method-assign]
    connection.rollback = rollback_with_deletes  # type: ignore[method-assign]
    connection.run_and_clear_commit_hooks = run_deletes_and_callbacks  # type: ignore[method-assign]
    _wrap_set_autocommit(connection)
    connection._ringcache_wrapped = True  # type: ignore[attr-defined]


def _delete_after_commit(connection: BaseDatabaseWrapper) -> None:
    """Delete the keys of the transaction that was committed."""
    deletes: TransactionDeletes | None = getattr(connection, _ATTRIBUTE, None)
    if deletes is None:
        return
    setattr(connection, _ATTRIBUTE, None)
    others = deletes.other_callbacks(connection)
    # A transaction of its own, such as a refill's, must not run the callbacks of this one
    callbacks, connection.run_on_commit = others, []
    try:
        deletes.after_commit()
    except BaseException:  # interrupted, perhaps while the driver waits: the callbacks need the connection
        if is_open(connection):
            roll_back_or_close(connection)
        raise
    finally:
        connection.run_on_commit = callbacks + connection.run_on_commit


def _wrap_set_autocommit(connection: BaseDatabaseWrapper) -> None:
    """Let no driver commit an open transaction unseen, or refuse to, because autocommit is turned on."""
    set_autocommit: Callable[[bool, bool], None] = connection.set_autocommit
    is_of_atomic = connection.in_atomic_block and connection.commit_on_exit

    def set_autocommit_with_deletes(
        autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False
    ) -> None:
        nonlocal is_of_atomic
        try:
            if not autocommit:
                is_of_atomic = force_begin_transaction_with_broken_autocommit  # only ``atomic`` asks for it
            elif not connection.autocommit:
                _end_open_transaction(connection, is_of_atomic=is_of_atomic)
        finally:  # if a signal handler raises meanwhile, Django must run the callbacks all the same
            set_autocommit(autocommit, force_begin_transaction_with_broken_autocommit)

    connection.set_autocommit = set_autocommit_with_deletes  # type: ignore[method-assign]


def _end_open_transaction(connection: BaseDatabaseWrapper, *, is_of_atomic: bool) -> None:
    """End a transaction that the driver would commit or refuse to commit when autocommit is turned on.

    ``atomic`` turns it on after the commit. The transaction is still open then only if a signal handler
    has raised before the commit or the rollback has ended.
    """
    if is_of_atomic:
        if is_open(connection):
            roll_back_or_close(connection)
    elif connection.vendor != "postgresql" and scheduled_deletes(connection) is not None:
        connection.commit()  # the driver of Postgres refuses it


def each_statement_in_a_transaction(connection: BaseDatabaseWrapper) -> AbstractContextManager[Any]:
    """Return a context in which a statement and its outbox row are committed together."""
    if is_unmanaged(connection):
        return _own_outbox_row(connection)
    if is_in_transaction(connection):
        return nullcontext()
    return transaction.atomic(using=connection.alias, savepoint=False)


@contextmanager
def _own_outbox_row(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Write the outbox row of a statement directly after it: the commit may not be seen.

    Raises:
        TransactionManagementError: The statement changed strict rows. Their quarantine would have to
            last until a commit that is not bounded in time.
    """
    earlier = scheduled_deletes(connection)
    setattr(connection, _ATTRIBUTE, None)
    try:
        yield
    finally:  # of several statements, some may have succeeded
        deletes = scheduled_deletes(connection)
        if deletes is None:
            setattr(connection, _ATTRIBUTE, earlier)
        elif not is_aborted(connection):
            deletes.write_outbox_row()
            if earlier is not None:
                deletes.add_written(earlier)
    if deletes is not None and deletes.strict_keys:
        deletes.strict_keys.clear()
        message = "strict rows can only be changed in transactions that Django commits: use atomic()"
        raise transaction.TransactionManagementError(message)


def invalidate_rows(changes: Iterable[WrittenChange], using: str) -> None:
    """Delete what is cached of rows that statements past Django have changed: after the commit.

    Args:
        changes: What the statements have changed in the open transaction.
        using: The alias of the database.
    """
    for each in changes:
        deletes = open_deletes(connections[using])
        if each.changes is None:
            deletes.add_table(each.table)
        elif each.has_values:
            deletes.add_changes(each.changes)
        else:
            deletes.add_stored(each.changes, with_results=True)


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


def pending_keys(connection: BaseDatabaseWrapper, asks: bool) -> KeysByAlias:
    """Return the keys that the open transaction of a connection deletes at its commit, by cache alias.

    The rows that triggers named are added first, in place of their outbox rows. So no key is in two
    outbox rows, and keys that raw SQL made wrong are deleted right after the commit. The commit of a
    transaction that Django does not manage may not be seen, so the relay gets those outbox rows.

    Args:
        connection: The connection.
        asks: Whether the database is asked even if no statement seems to have changed rows.
    """
    open_transaction = OpenTransaction.of(connection)
    has_begun = asks and is_open(connection)
    if (has_begun or open_transaction.has_new_changes) and not is_aborted(connection):
        if may_have_trigger_rows(connection.alias):
            with open_transaction.of_known_rows():
                changed = list(take_trigger_rows(connection.alias, leave=is_unmanaged(connection)))
            for each in changed:
                open_deletes(connection).add_states(*each)
        open_transaction.changes_are_known()
    scheduled = scheduled_deletes(connection)
    return {} if scheduled is None else scheduled.keys


def has_changed_tables(connection: BaseDatabaseWrapper, tables: Collection[str]) -> bool:
    """Return whether the open transaction of a connection seems to have changed rows of some tables."""
    if not is_in_transaction(connection):
        return False
    keys = pending_keys(connection, False)
    deletes = scheduled_deletes(connection)
    return deletes is not None and (
        not deletes.changed_tables.keys().isdisjoint(tables)
        or any(ANY_KEY in group for group in keys.values())
    )


def _watch_connection(*, connection: BaseDatabaseWrapper, **_: Any) -> None:
    """See the commits of a connection from the first one on: raw SQL alone opens no deletes."""
    _wrap_transaction_methods(connection)
    if _around_statement not in connection.execute_wrappers:
        # At the front, because ``connection.execute_wrapper`` removes the last one at its end
        connection.execute_wrappers.insert(0, _around_statement)


def _around_statement(execute: Callable[..., Any], *arguments: Any) -> Any:
    """Run a statement; delete the keys of a transaction past Django that has ended, by it or before it."""
    connection: BaseDatabaseWrapper = arguments[-1]["connection"]
    _delete_if_ended(connection)
    deletes: TransactionDeletes | None = getattr(connection, _ATTRIBUTE, None)
    if deletes is not None and deletes.is_manual and is_open(connection):
        return _around_manual_statement(deletes, execute, *arguments)
    try:
        return execute(*arguments)
    finally:
        _delete_if_ended(connection)


def _around_manual_statement(
    deletes: TransactionDeletes, execute: Callable[..., Any], *arguments: Any
) -> Any:
    """Run a statement in a transaction that Django does not commit; delete the keys if it may have ended it.

    ``COMMIT AND CHAIN`` begins another transaction. If a statement that may commit has not done so, its
    quarantines end here, and the commit places new ones. In a transaction past Django none are placed, and
    writes have outbox rows already.
    """
    connection: BaseDatabaseWrapper = arguments[-1]["connection"]
    may_commit = not is_aborted(connection) and _may_commit(arguments[0], connection)
    if may_commit and not is_unmanaged(connection):
        deletes.before_commit(connection)
    try:
        return execute(*arguments)
    except BaseException as error:
        if may_commit:
            deletes.commit_failed(error)
        raise
    finally:
        has_ended = not is_open(connection)
        if has_ended:
            setattr(connection, _ATTRIBUTE, None)
        if has_ended or may_commit:
            deletes.after_commit(only_keys=not (has_ended and connection.autocommit))


def _may_commit(statement: Any, connection: BaseDatabaseWrapper) -> bool:
    """Return whether a statement may commit a transaction although autocommit is off."""
    text = statement_text(statement, connection)
    if connection.vendor == "sqlite" and not any(connection.savepoint_ids) and releases_savepoint(text):
        return True
    return not text or commits(text)


def _delete_if_ended(connection: BaseDatabaseWrapper) -> None:
    """Delete the keys of a transaction that has ended past Django, as by the driver's ``commit``.

    Nobody knows whether by a commit. After a rollback the deletes are not needed, but do no harm.
    """
    deletes: TransactionDeletes | None = getattr(connection, _ATTRIBUTE, None)
    if deletes is not None and deletes.has_ended(connection):
        setattr(connection, _ATTRIBUTE, None)
        deletes.after_commit(only_keys=not connection.autocommit)


connect_pending_keys(pending_keys)
connection_created.connect(_watch_connection, dispatch_uid="ringcache:transactions")


def open_deletes(connection: BaseDatabaseWrapper) -> TransactionDeletes:
    """Return the pending deletes of the open transaction; create them if there are none."""
    deletes = scheduled_deletes(connection)
    if deletes is None:
        _wrap_transaction_methods(connection)
        deletes = TransactionDeletes(connection)
        setattr(connection, _ATTRIBUTE, deletes)
        OpenTransaction.of(connection).note_changes()
    else:
        deletes.schedule_again(connection)
        if not OpenTransaction.of(
            connection
        ).has_changes:  # SQL has rolled back to a savepoint before all of them
            OpenTransaction.of(connection).note_changes()
    return deletes


def scheduled_deletes(connection: BaseDatabaseWrapper) -> TransactionDeletes | None:
    """Return the pending deletes of the open transaction, if there are any."""
    deletes: TransactionDeletes | None = getattr(connection, _ATTRIBUTE, None)
    return deletes if deletes is not None and deletes.is_scheduled(connection) else None
