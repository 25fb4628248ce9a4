"""Asks the outbox of each database by itself: one that is down or hangs does not delay the others.

Each database is asked in a thread of its own, because few drivers limit the time of a query on a
server that does not answer. The thread and its connection are used again while requests follow each
other, as the relay's do. A thread that is late is left to itself, and ends when the server answers or
the connection breaks.

A replica shows the outbox of its primary, so its rows are handled and counted where they were written.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.outbox_table import forget_outbox, may_have_outbox
from cachebackend.invalidation.own_thread import Outcome, OwnThread
from cachebackend.models import OutboxRow

__all__ = [
    "Answers",
    "Server",
    "ask_databases",
    "is_private",
    "outbox_databases",
    "server_of",
    "unanswered_since",
]

T = TypeVar("T")
#: The most threads for each database that wait for an answer although nothing waits for them any more.
MAX_LATE = 3
#: Seconds without a request, after which a thread closes its connection and ends.
IDLE_SECONDS = 3.0
#: Seconds after an answer was late for which other requests to the same database fail at once, while the
#: late answer has not come: one page asks a database several times, and waits for it once.
LATE_SECONDS = 2.0
#: Seconds without a request after which it is not known any more whether a database has answered meanwhile.
FORGET_SECONDS = 60.0

_POSTGRES = """
    SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',
           pg_postmaster_start_time()::text, current_database(), to_regclass(%s)::oid::text
"""
_MYSQL = "SELECT @@read_only, @@read_only, @@hostname, @@port, DATABASE()"


class Server(NamedTuple):
    """The database behind an alias.

    Attributes:
        is_replica: Whether it repeats what another database writes.
        is_read_only: Whether this alias cannot write to it.
        identity: Equal for two aliases of one database, as with and without a pooler.
    """

    is_replica: bool
    is_read_only: bool
    identity: tuple[Any, ...]


class Answers(NamedTuple, Generic[T]):
    """What the databases answered.

    Attributes:
        found: The answer of each database that answered, by alias.
        errors: The error of each of the others.
    """

    found: dict[str, T]
    errors: dict[str, Exception]


def outbox_databases() -> Iterator[str]:
    """Yield the aliases of the databases that can have an outbox of their own.

    ``TEST["MIRROR"]`` declares a replica. Inside tests both aliases even share one connection.
    """
    for using in connections:
        is_mirror = bool(connections[using].settings_dict["TEST"]["MIRROR"])
        if not is_mirror and may_have_outbox(using):
            yield using


def server_of(using: str) -> Server:
    """Ask which database is behind an alias."""
    connection = connections[using]
    if connection.vendor not in {"postgresql", "mysql"}:
        return Server(is_replica=False, is_read_only=False, identity=(using,))
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(_POSTGRES, [connection.ops.quote_name(OutboxRow._meta.db_table)])
        else:
            cursor.execute(_MYSQL)
        is_replica, is_read_only, *identity = cursor.fetchone()
    return Server(bool(is_replica), bool(is_read_only), tuple(identity))


class _NotAskedError(TimeoutError):
    """The database was not asked, because it has not answered earlier requests in time."""


class _Outage(NamedTuple):
    """Requests in turn that a database did not answer, in seconds since 1970.

    Attributes:
        first: When the first of them began.
        last: When the last of them ended.
    """

    first: float
    last: float


class _Asker:
    """A thread that asks a database, one request at a time.

    Attributes:
        answer: Where the thread puts the answer of the request that it has; None: it is idle.
    """

    def __init__(self, using: str) -> None:
        self.answer: Outcome[Any] | None = None
        self._using = using
        self._thread = OwnThread(f"ringcache-{using}", self._answer, IDLE_SECONDS)

    def begin(self, ask: Callable[[str], T], answer: Outcome[T]) -> None:
        """Give the thread a request."""
        self.answer = answer
        try:
            self._thread.put((ask, answer))
        except BaseException:
            self.answer = None
            raise

    def _answer(self, requests: list[tuple[Callable[[str], Any], Outcome[Any]]]) -> None:
        for ask, answer in requests:
            try:
                _reconnect_if_broken(self._using)
                found = ask(self._using)
            except BaseException as error:  # noqa: BLE001  # ``result`` raises it in the thread that waits
                self._end(is_broken=True)
                answer.fail(error)
            else:
                self._end(is_broken=False)
                answer.set(found)

    def _end(self, *, is_broken: bool) -> None:
        """Become idle; give the connection back if all threads share a few, or if it may be broken."""
        if is_broken or "pool" in connections[self._using].settings_dict["OPTIONS"]:
            connections.close_all()
        self.answer = None


#: Held while a thread is chosen.
_lock = threading.Lock()
#: The threads that ask, by database alias. Those that are idle may have ended, and then start again.
_askers: dict[str, list[_Asker]] = {}
#: When a request to a database last ended without an answer, in monotonic seconds, by its alias.
_late_at: dict[str, float] = {}
#: The databases that did not answer their last request, by alias.
_outages: dict[str, _Outage] = {}


def ask_databases(
    ask: Callable[[str], T], timeout: float, aliases: Iterable[str] | None = None
) -> Answers[T]:
    """Ask databases, all at the same time.

    The calling thread asks a database in which it has an open transaction, because no other one sees
    what the transaction has written. It also asks SQLite in memory: each thread has another database.

    Args:
        ask: Is called with each database alias. It raises any error if the database cannot be asked.
        timeout: The most seconds that all databases together may take.
        aliases: The databases; None: every one that can have an outbox.

    Returns:
        A database that has not answered in time has a TimeoutError.
    """
    answers: Answers[T] = Answers({}, {})
    deadline, began = SYSTEM_CLOCK.monotonic() + timeout, SYSTEM_CLOCK.now()
    if aliases is None:
        aliases = list(outbox_databases())
    asked: dict[str, Outcome[T]] = {using: Outcome() for using in aliases}
    try:
        for using, answer in asked.items():
            _ask(using, ask, answer, timeout)
        for using, answer in asked.items():
            try:
                answers.found[using] = answer.result(max(0.0, deadline - SYSTEM_CLOCK.monotonic()))
                _outages.pop(using, None)
            except Exception as error:  # noqa: BLE001  # each caller reports it, with the database
                raise_interrupt(error)
                _note_outage(using, began)
                # It has waited for what was left of the time when the other databases had answered
                is_late = isinstance(error, TimeoutError) and not isinstance(error, _NotAskedError)
                answers.errors[using] = TimeoutError(_no_answer(timeout)) if is_late else error
                if isinstance(error, TimeoutError) and not isinstance(error, _NotAskedError):
                    _late_at[using] = SYSTEM_CLOCK.monotonic()
                if isinstance(error, DatabaseError):
                    forget_outbox(using)
    finally:  # also if a signal handler raises while this thread waits
        for answer in asked.values():
            answer.is_awaited = False
    return answers


def unanswered_since(using: str) -> float | None:
    """Return since when a database does not answer this process, in seconds since 1970; None if it does."""
    outage = _outages.get(using)
    return None if outage is None else outage.first


def _note_outage(using: str, began: float) -> None:
    now, before = SYSTEM_CLOCK.now(), _outages.get(using)
    is_same = before is not None and began - before.last < FORGET_SECONDS
    _outages[using] = _Outage(before.first if before is not None and is_same else began, now)


def _no_answer(timeout: float) -> str:
    return f"no answer within {timeout:g} s"


def _ask(using: str, ask: Callable[[str], T], answer: Outcome[T], timeout: float) -> None:
    """Begin to ask a database."""
    try:
        if is_private(connections[using]):
            answer.set(ask(using))
            return
        with _lock:
            askers = _askers.setdefault(using, [])
            late = sum(each.answer is not None and not each.answer.is_awaited for each in askers)
            was_late = SYSTEM_CLOCK.monotonic() - _late_at.get(using, float("-inf")) < LATE_SECONDS
            if late >= MAX_LATE or (late and was_late):
                raise _NotAskedError(_no_answer(timeout))  # an error as those of ``ask``
            asker = next((each for each in askers if each.answer is None), None)
            if asker is None:
                asker = _Asker(using)
                askers.append(asker)
            asker.begin(ask, answer)
    except Exception as error:  # noqa: BLE001  # ``result`` raises it
        raise_interrupt(error)
        answer.fail(error)


def is_private(connection: BaseDatabaseWrapper) -> bool:
    """Return whether only the calling thread can see what its connection sees."""
    if connection.in_atomic_block:
        return True
    return connection.vendor == "sqlite" and connection.is_in_memory_db()  # type: ignore[attr-defined]


def _reconnect_if_broken(using: str) -> None:
    """Close the calling thread's connection if the server has closed it since the last request."""
    connection = connections[using]
    if connection.connection is not None and not connection.is_usable():
        connection.close()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603  # another thread of the parent may have held it
    _lock = threading.Lock()
    _askers.clear()  # a forked child does not have the parent's threads


os.register_at_fork(after_in_child=_after_fork)
