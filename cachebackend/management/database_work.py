"""Work of a command in a database: it may take long, but ends when the database answers nothing any more."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

from django.db import OperationalError, connections

from cachebackend.invalidation.outbox_databases import ask_databases, is_private, server_of
from cachebackend.invalidation.own_thread import Outcome

__all__ = ["in_database"]

T = TypeVar("T")
#: Seconds between two checks of a database, and those in which it must answer one: together 3 seconds.
CHECK_SECONDS, ANSWER_SECONDS = 1.0, 2.0
#: The thread that was left to itself, by the alias of the database that does not answer it.
_left: dict[str, Thread] = {}


def in_database(using: str, work: Callable[[], T]) -> T:
    """Return the result of work in a database; check meanwhile whether the database answers others.

    The work runs in a thread with its own connections. A query on a server that hangs cannot be ended, so
    the thread is left to itself, and ends with the process. Until then further work fails at once.

    Args:
        using: The alias of the database.
        work: What to do.

    Raises:
        OperationalError: The database has stopped answering.
        Exception: The error of the work.
    """
    if is_private(connections[using]):
        return work()
    if using in _left and _left[using].is_alive():
        message = f"the database {using!r} does not answer: earlier work waits for it"
        raise OperationalError(message)
    outcome: Outcome[T] = Outcome()
    thread = Thread(target=_run, args=(work, outcome), name=f"ringcache-work-{using}", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(CHECK_SECONDS)
        if thread.is_alive() and (error := _silence(using)) is not None:
            _left[using] = thread
            message = f"the database {using!r} does not answer: {error}"
            raise OperationalError(message) from error
    return outcome.result(0)


def _run(work: Callable[[], T], outcome: Outcome[T]) -> None:
    try:
        outcome.set(work())
    except BaseException as error:  # noqa: BLE001  # ``result`` raises it in the thread that waits
        outcome.fail(error)
    finally:
        connections.close_all()


def _silence(using: str) -> TimeoutError | None:
    """Return the error of a database that answers nothing; None if it answers, be it by an error."""
    error = ask_databases(server_of, ANSWER_SECONDS, [using]).errors.get(using)
    return error if isinstance(error, TimeoutError) else None
