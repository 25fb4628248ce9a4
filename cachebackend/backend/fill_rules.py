"""The rules of every read that loads: when a loaded value may be stored, and a cached one returned.

A value is not stored

- if the open transaction may have changed what the loader reads: the transaction may roll back. A loader
  may read anything, and raw SQL may change anything;
- if the thread has rolled back changes since the load began: the value may come from them;
- if the loader reads a snapshot that is older than the lease:

    1. reader    BEGIN ISOLATION LEVEL REPEATABLE READ; its first statement
    2. writer    COMMIT, DEL key
    3. reader    acquires the lease, and the lease is valid
    4. reader    SELECT             -> the old row, as of 1
    5. reader    fills the old row

  On SQLite with a write-ahead log, so does a statement that is not read to its end (``keeps_snapshot``).

A cached value is not returned to a transaction that has invalidated it, or one of its tags.

The state of a transaction belongs to a database connection, and a connection to a thread. So the
questions are asked where the loader runs: in the calling thread, or, in asyncio, in the thread of
``sync_to_async``. A hit asks no database: what the statements so far seem to have changed decides what
it returns. A fill asks the database, because a function or ``COPY`` may have changed rows unseen.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import IntEnum
from functools import partial
from typing import Any, TypeAlias, TypeVar

from asgiref.sync import sync_to_async
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from cachebackend.backend.keys import ANY_KEY
from cachebackend.backend.open_transactions import (
    OpenTransaction,
    any_begun,
    any_changed,
    any_may_keep_snapshot,
    any_open,
    connections_in_transactions,
    has_own_settings,
    is_aborted,
    is_in_transaction,
    is_unmanaged,
    keeps_snapshot,
    rollbacks,
    was_rolled_back_since,
)
from cachebackend.blocked_threads import is_thread_of_tasks
from cachebackend.protocol import MISSING, Ask, Operation, Unfilled

__all__ = [
    "MAY_FILL",
    "Changes",
    "ask_changes",
    "ask_may_fill",
    "ask_may_store",
    "ask_rolled_back",
    "async_guard",
    "changed_keys",
    "connect_pending_keys",
    "databases_with_changes",
    "guard",
    "row_guard",
]

logger = logging.getLogger("cachebackend")
K = TypeVar("K", bound=bytes)
Loader: TypeAlias = Callable[..., Any]
#: Returns the keys that the open transaction of a connection deletes at its commit, by cache alias. The
#: second argument says whether the database is asked for changes that no statement showed.
PendingKeys: TypeAlias = Callable[[BaseDatabaseWrapper, bool], Mapping[str, Collection[bytes]]]
#: Without ``invalidation`` no key waits for a commit.
_pending_keys: PendingKeys = lambda *_: {}  # noqa: E731  # replaced by connect_pending_keys
#: The databases of which it was logged that reads in transactions fill nothing.
_logged: set[str] = set()


def connect_pending_keys(pending_keys: PendingKeys) -> None:
    """Set the function that knows which keys wait for a commit; ``invalidation`` calls it."""
    global _pending_keys  # noqa: PLW0603  # there is one such function for a process
    _pending_keys = pending_keys


class Changes(IntEnum):
    """What the open transactions of a thread have changed.

    ``OTHERS`` may be other keys, or rows of which nothing is known to be cached: a loader may read them.
    """

    NOTHING = 0
    OTHERS = 1
    THESE_KEYS = 2


# Questions: they are asked in the thread of the loader


def changed_keys(keys: Iterable[K], using: str) -> set[K]:
    """Return those of the keys whose rows differ from the cached ones in the open transaction of a database.

    It seems to have changed them, or has set from where or how it reads rows, by ``search_path`` for example.
    """
    connection = connections[using]
    if not any_changed() or not is_in_transaction(connection):
        return set()
    if has_own_settings(connection):
        return set(keys)
    pending = _pending_keys(connection, False).values()
    return {key for key in keys if _are_pending((key,), pending)}


def _changes(keys: Collection[bytes] = (), *, asks: bool = False) -> Changes:
    """Return whether a transaction of this thread may have changed anything.

    Args:
        keys: The keys that matter most.
        asks: Whether the database is asked for changes that no statement showed.
    """
    if not asks and not any_changed():
        return Changes.NOTHING
    transactions = connections_in_transactions()
    pending = [group for each in transactions for group in _pending_keys(each, asks).values()]
    if _are_pending(keys, pending):
        return Changes.THESE_KEYS
    has_changes = any(pending) or any(OpenTransaction.of(each).has_changes for each in transactions)
    return Changes.OTHERS if has_changes else Changes.NOTHING


def _are_pending(keys: Iterable[bytes], pending: Collection[Collection[bytes]]) -> bool:
    """Return whether a key waits for the commit; all do if the changed rows are unknown."""
    return any(key in group or ANY_KEY in group for group in pending for key in keys)


def _is_uncommitted(since: int) -> bool:
    """Return whether a loaded value may come from changes that are open, or were rolled back since."""
    return bool(_changes(asks=True)) or was_rolled_back_since(since)


def databases_with_changes() -> list[str]:
    """Return the databases whose open transaction in this thread has changed anything that is cached."""
    return [each.alias for each in connections_in_transactions() if any(_pending_keys(each, True).values())]


def _sees_commits(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the next statement sees everything that is committed when it begins."""
    if not is_in_transaction(connection):
        return not keeps_snapshot(connection)
    transaction = OpenTransaction.of(connection)
    if not transaction.has_begun():  # the loader's first statement takes the snapshot
        return not keeps_snapshot(connection)
    if is_aborted(connection):
        return False
    if transaction.sees_commits is None or is_unmanaged(connection):
        transaction.sees_commits = _reads_committed(connection)
        if not transaction.sees_commits:
            _log_snapshot(connection)
    return transaction.sees_commits


def _all_see_commits() -> bool:
    return all(map(_sees_commits, connections.all(initialized_only=True)))


def _reads_committed(connection: Any) -> bool:
    """Return whether each statement of the open transaction sees everything that is committed by then."""
    if connection.vendor == "postgresql":
        level = _first_value(connection, "SHOW transaction_isolation")
        return level in {"read committed", "read uncommitted"}  # to Postgres they are the same
    if connection.vendor == "mysql":
        return bool(connection.isolation_level == "read committed")
    if connection.vendor == "sqlite":
        if connection.in_atomic_block and connection.transaction_mode in {"IMMEDIATE", "EXCLUSIVE"}:
            return True  # nobody else can commit
        # With a rollback journal, nobody can commit while a transaction reads; with a WAL, others can
        return _first_value(connection, "PRAGMA journal_mode") != "wal"
    return False


def _first_value(connection: BaseDatabaseWrapper, sql: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return str(cursor.fetchone()[0])


def _log_snapshot(connection: BaseDatabaseWrapper) -> None:
    """Log once that the requests of a database fill nothing, if all of them are transactions."""
    if connection.settings_dict.get("ATOMIC_REQUESTS") and connection.alias not in _logged:
        _logged.add(connection.alias)
        logger.warning(
            "ATOMIC_REQUESTS of database %r: its transactions read snapshots, so requests store nothing that "
            "they load; use READ COMMITTED, or on SQLite the transaction_mode IMMEDIATE",
            connection.alias,
            extra={"event": "snapshots_fill_nothing", "database": connection.alias},
        )


# Asking, before the cache is read


def ask_changes(keys: Collection[bytes]) -> Operation[Changes]:
    """Ask what the transactions have changed in which an unknown loader would run."""
    if not any_changed():
        return Changes.NOTHING
    question = partial(_changes, keys)
    changes: Changes = yield Ask(question, partial(_in_both_threads, question, max))
    return changes


def ask_may_fill() -> Operation[bool]:
    """Ask whether a value that is loaded now may be stored, as far as the statements so far show it."""
    if not any_begun() and not any_may_keep_snapshot():
        return True
    may_fill: bool = yield MAY_FILL
    return may_fill


def ask_rolled_back(since: int) -> Operation[bool]:
    """Ask whether changes were rolled back since ``rollbacks`` returned a number."""
    if rollbacks() == since:
        return False
    question = partial(was_rolled_back_since, since)
    is_rolled_back: bool = yield Ask(question, partial(_in_both_threads, question, max))
    return is_rolled_back


def ask_may_store() -> Operation[bool]:
    """Ask whether a value may be stored that the caller has loaded; it asks the database."""
    if not any_open() and not any_may_keep_snapshot():
        return True
    may_store: bool = yield Ask(_may_store, partial(_in_both_threads, _may_store, min))
    return may_store


def _may_fill() -> bool:
    return _all_see_commits() and not _changes()


def _may_store() -> bool:
    return _all_see_commits() and not _changes(asks=True)


async def _in_both_threads(question: Callable[[], Any], worst: Callable[[Any, Any], Any]) -> Any:
    """Ask in the event loop, where blocking loaders run, and where coroutines use the database."""
    here = question()
    return here if is_thread_of_tasks() else worst(here, await sync_to_async(question)())


async def _async_may_fill() -> bool:
    if not any_begun() and not any_changed() and not any_may_keep_snapshot():
        return True
    return not (any_open() or any_may_keep_snapshot()) or bool(await _in_both_threads(_may_fill, min))


#: Asks whether a value may be stored that an unknown loader loads now, before a lease is acquired.
MAY_FILL = Ask(_may_fill, _async_may_fill)


# Guards of loaders, which are called while the lease is held


def guard(loader: Loader) -> Loader:
    """Return a blocking loader whose value is ``Unfilled`` if it may not be stored.

    A snapshot must not be older than the lease, so the rule is asked before the load. The loader
    itself may write, and roll back, so what has changed is asked after it.
    """
    return partial(_guarded, loader)


def _guarded(loader: Loader, *args: Any) -> Any:
    sees_commits, since = _all_see_commits(), rollbacks()
    value = loader(*args)
    return value if sees_commits and not _is_uncommitted(since) else Unfilled(value)


def async_guard(loader: Loader) -> Loader:
    """Return a guarded loader for asyncio; the loader may return an awaitable."""
    return partial(_async_guarded, loader)


async def _async_guarded(loader: Loader, *args: Any) -> Any:
    asks, since = any_open() or any_may_keep_snapshot(), rollbacks()
    sees_commits = not asks or await _in_both_threads(_all_see_commits, min)
    value = loader(*args)
    if inspect.isawaitable(value):
        value = await value
    if sees_commits and not any_open() and rollbacks() == since:
        return value
    is_uncommitted = not sees_commits or await _in_both_threads(partial(_is_uncommitted, since), max)
    return Unfilled(value) if is_uncommitted else value


def row_guard(loader: Loader, using: str, keys: Collection[bytes], *, has_triggers: bool) -> Loader:
    """Return a guarded loader that reads the rows of some keys, and nothing else, from a database.

    It returns a value, MISSING, or a dict that lacks the rows which do not exist.

    After any change the transaction stores no absence. An upsert does not return the row as it was,
    so no pending delete names its old lookup value, and the row is absent under that value until
    the transaction rolls back. A lookup that names a row needs no such rule: readers compare the row.

    After raw SQL it stores nothing, unless triggers say which rows have changed.
    """
    return partial(_guarded_rows, loader, using, keys, has_triggers)


def _guarded_rows(loader: Loader, using: str, keys: Collection[bytes], has_triggers: bool, *args: Any) -> Any:
    connection = connections[using]
    sees_commits = _sees_commits(connection)
    value = loader(*args)
    if not sees_commits:
        return Unfilled(value)
    if not is_in_transaction(connection):
        return value
    pending = _pending_keys(connection, True).values()
    is_absent = value is MISSING or (isinstance(value, dict) and len(value) < len(keys))
    may_be_changed = OpenTransaction.of(connection).has_unknown_changes and not (
        has_triggers and connection.vendor == "postgresql"
    )
    if may_be_changed or _are_pending(keys, pending) or (is_absent and any(pending)):
        return Unfilled(value)
    return value
