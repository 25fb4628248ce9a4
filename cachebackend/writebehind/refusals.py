"""Refusals: the errors of Postgres that are a row's own. All other errors are retried with the batch."""

from __future__ import annotations

from django.db import DataError

from cachebackend.errors import WriteBehindDamagedError

__all__ = ["is_refusal", "sqlstate_of"]

#: SQLSTATE prefixes of the errors that are not a row's own: the connection, the transaction's state (such
#: as a server that is read-only), a conflict with another transaction, resources, a lock, an operator, the
#: system and the server itself.
_NOT_OF_A_ROW = ("08", "25", "40", "53", "55006", "55P03", "57", "58", "XX")


def is_refusal(error: Exception) -> bool:
    """Return whether an error may be caused by the data of one row.

    A trigger may raise any SQLSTATE, so all count that are not known to have another cause.
    """
    if isinstance(error, WriteBehindDamagedError | DataError):  # errors of psycopg itself have no SQLSTATE
        return True
    sqlstate = sqlstate_of(error)
    return bool(sqlstate) and not sqlstate.startswith(_NOT_OF_A_ROW)


def sqlstate_of(error: BaseException) -> str:
    """Return the SQLSTATE of an error of Django; empty if Postgres did not report it."""
    return str(getattr(error.__cause__, "sqlstate", None) or "")
