"""Refusals: the errors of Postgres that one row causes or meets. All others are retried with the batch."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from django.db import DataError

from cachebackend.errors import WriteBehindDamagedError

__all__ = ["LOCKED", "REFERENCE", "TOO_LARGE", "TOO_SLOW", "Refusal", "refusal_of"]

#: The SQLSTATE of a row that another transaction holds for longer than the drain waits.
LOCKED = "55P03"
#: The SQLSTATE of a statement that takes longer than its limit: with fewer rows it may not.
TOO_SLOW = "57014"
#: The SQLSTATEs of a text that is too long, and of a number that is too large, for its column.
TOO_LARGE = frozenset({"22001", "22003"})
#: The SQLSTATE of a reference to a row that does not exist yet, or of a row to which there still is one.
REFERENCE = "23503"
#: The SQLSTATEs of a value that another row has; an earlier write of that row may free it.
_TAKEN = frozenset({"23505", "23P01"})
#: SQLSTATE prefixes of the errors that no row causes: of the connection, the transaction's state (such as
#: a server that is read-only), a conflict with another transaction, resources, an operator, the system and
#: the server itself.
_NOT_OF_A_ROW = ("08", "25", "40", "53", "55006", "57", "58", "XX")
#: The time for which a write waits for a value that another row has: longer than drains lag behind.
TAKEN_WAIT = timedelta(minutes=5)
#: The time for which a write waits for newer code and its migration: longer than most deploys take.
DEPLOY_WAIT = timedelta(hours=1)


class Refusal(NamedTuple):
    """Why a row was not written.

    Attributes:
        text: The error.
        sqlstate: Its code; empty if Postgres did not report it.
        is_of_table: Whether the table is not as the model of this process describes it, or refuses
            the statement also without rows.
        is_of_version: Whether the table is as the model of this process describes it, but the write is of
            another version of the code: a newer one whose migration has not run, or an older one.
    """

    text: str
    sqlstate: str = ""
    is_of_table: bool = False
    is_of_version: bool = False

    @property
    def waits(self) -> bool:
        """Whether the write may succeed later by itself: it waits for a row, a transaction or a deploy."""
        return bool(self.patience)

    @property
    def patience(self) -> timedelta:
        """For how long the write is retried by itself until a person is needed.

        Nothing queued need free a value that another row has, and a write of another version may be an
        older one, whose values no migration will make fit.
        """
        is_met = self.sqlstate in {LOCKED, REFERENCE} or self.sqlstate.startswith(_NOT_OF_A_ROW)
        if is_met or self.is_of_table:
            return timedelta.max
        if self.is_of_version:
            return DEPLOY_WAIT
        return TAKEN_WAIT if self.sqlstate in _TAKEN else timedelta()


def refusal_of(error: Exception, *, is_repeated: bool = False) -> Refusal | None:
    """Return the refusal if one row may have caused an error; None if the whole batch must be retried.

    A trigger may raise any SQLSTATE, so all count that are not known to have another cause, and those
    too if the batch has met them again and again.
    """
    sqlstate = str(getattr(error.__cause__, "sqlstate", None) or "")
    if not sqlstate:  # errors of psycopg itself have none
        is_refused = isinstance(error, WriteBehindDamagedError | DataError)
    else:
        is_refused = is_repeated or sqlstate == TOO_SLOW or not sqlstate.startswith(_NOT_OF_A_ROW)
    return Refusal(str(error).strip(), sqlstate) if is_refused else None
