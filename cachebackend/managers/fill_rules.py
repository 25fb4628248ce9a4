"""The rule that says whether a value that is read now may be filled."""

from __future__ import annotations

from django.db import connections

from cachebackend.invalidation.transactions import is_in_transaction

__all__ = ["may_fill"]


def may_fill(using: str) -> bool:
    """Return whether a read on this connection sees everything that is committed when the read begins.

    Outside a transaction every statement does. Inside one only Postgres at READ COMMITTED does.
    A snapshot that is older than the lease would fill an old value:

        1. reader    BEGIN ISOLATION LEVEL REPEATABLE READ; its first statement
        2. writer    COMMIT, DEL key
        3. reader    takes the lease, and the lease is valid
        4. reader    SELECT             -> the old row, as of 1
        5. reader    fills the old row
    """
    connection = connections[using]
    if not is_in_transaction(connection):
        return True
    if connection.vendor != "postgresql":
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('transaction_isolation')")
        [level] = cursor.fetchone()
    return bool(level == "read committed")
