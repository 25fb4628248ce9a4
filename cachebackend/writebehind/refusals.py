"""Refusals: the errors of Postgres that one row causes or meets. All others are retried with the batch."""

from __future__ import annotations

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


class Refusal(NamedTuple):
    """Why a row was not written.

    Attributes:
        text: The error.
        sqlstate: Its code; empty if Postgres did not report it.
        is_of_table: Whether the table is not as the model of this process describes it, or refuses
            the statement also without rows.
    """

    text: str
    sqlstate: str = ""
    is_of_table: bool = False

    @property
    def waits(self) -> bool:
        """Whether the write may succeed later by itself: it waits for a row, a transaction or a deploy."""
        is_met = self.sqlstate in {LOCKED, REFERENCE} or self.sqlstate.startswith(_NOT_OF_A_ROW)
        return is_met or self.is_of_table or self.waits_briefly

    @property
    def waits_briefly(self) -> bool:
        """Whether a person is needed if it does not succeed soon: nothing queued need free the value."""
        return self.sqlstate in _TAKEN


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
