"""Asks the outbox of each database by itself: one that is down or hangs does not delay the others.

Each database is asked in a thread of its own, because few drivers limit the time of a query on a
server that does not answer. A thread that is late is left to itself, and ends when the server answers
or the connection breaks.

A replica shows the outbox of its primary, so its rows are handled and counted where they were written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, NamedTuple, TypeVar

from django.db import connections

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.outbox_table import may_have_outbox
from cachebackend.models import OutboxRow

__all__ = ["Answers", "Server", "ask_databases", "outbox_databases", "server_of"]

T = TypeVar("T")
#: The most threads for each database that wait for an answer although nothing waits for them any more.
MAX_LATE = 3
#: Those threads, by database alias.
_late: dict[str, list[threading.Thread]] = {}

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


def ask_databases(ask: Callable[[str], T], timeout: float) -> Answers[T]:
    """Ask every database that can have an outbox, all at the same time.

    In an open transaction of the calling thread a database is asked by this thread, because no other
    one sees what the transaction has written.

    Args:
        ask: Is called with each database alias. It raises any error if the database cannot be asked.
        timeout: The most seconds that all databases together may take.

    Returns:
        A database that has not answered in time has a TimeoutError.
    """
    answers: Answers[T] = Answers({}, {})
    deadline = SYSTEM_CLOCK.monotonic() + timeout
    asked = {using: _ask(using, ask) for using in list(outbox_databases())}
    for using, (thread, answer) in asked.items():
        try:
            answers.found[using] = answer.result(max(0.0, deadline - SYSTEM_CLOCK.monotonic()))
        except Exception as error:  # noqa: BLE001  # each caller reports it, with the database
            raise_interrupt(error)
            answers.errors[using] = error
            if thread is not None and not answer.done():
                _late[using] = [*_late.get(using, ()), thread]
                answers.errors[using] = TimeoutError(f"no answer within {timeout:g} s")
    return answers


def _ask(using: str, ask: Callable[[str], T]) -> tuple[threading.Thread | None, Future[T]]:
    """Begin to ask a database; return the thread that does, if any, and its future answer."""
    answer: Future[T] = Future()
    _late[using] = late = [each for each in _late.get(using, ()) if each.is_alive()]
    if len(late) >= MAX_LATE:
        answer.set_exception(TimeoutError(f"no answer to {len(late)} earlier requests"))
        return None, answer
    if connections[using].in_atomic_block:
        _answer(using, ask, answer)
        return None, answer
    thread = threading.Thread(target=_run, args=(using, ask, answer), name=f"ringcache-{using}", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # the process cannot start another thread
        answer.set_exception(error)
    return thread, answer


def _run(using: str, ask: Callable[[str], T], answer: Future[T]) -> None:
    try:
        _answer(using, ask, answer)
    finally:
        connections.close_all()


def _answer(using: str, ask: Callable[[str], T], answer: Future[T]) -> None:
    try:
        found = ask(using)
    except BaseException as error:  # noqa: BLE001  # ``result`` raises it in the thread that waits
        answer.set_exception(error)
    else:
        answer.set_result(found)
