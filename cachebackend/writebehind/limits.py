"""The time limits of a transaction of write-behind, as settings of Postgres that end with it."""

from __future__ import annotations

from django.db import connections

__all__ = ["LOCK_MS", "limit_locks", "limit_times"]

#: Milliseconds that a statement may take, with its wait for locks; after that it is tried with fewer rows.
STATEMENT_MS = 30_000
#: Milliseconds that a statement waits for one lock: ordinary transactions end within that time. At most half
#: of the session's limit for statements, so that a lock is not taken for a slow statement.
LOCK_MS = 2_000
#: Milliseconds that the transaction may be idle. Postgres ends it if its worker is frozen, so that another
#: worker can lock the checkpoint.
IDLE_MS = 60_000


def limit_times(using: str) -> None:
    """Limit the current transaction, unless the session has lower limits of its own."""
    _limit(
        using,
        statement_timeout=STATEMENT_MS,
        lock_timeout=LOCK_MS,
        idle_in_transaction_session_timeout=IDLE_MS,
    )


def limit_locks(using: str, milliseconds: int) -> None:
    """Limit how long the statements of the current transaction, or savepoint, wait for a lock."""
    _limit(using, lock_timeout=milliseconds)


def _limit(using: str, **limits: int) -> None:
    connection = connections[using]
    if connection.vendor != "postgresql":
        return
    # A setting has a unit, as intervals have; 0 means that there is no limit, and LEAST ignores NULL
    present = "NULLIF(EXTRACT(epoch FROM current_setting(%s)::interval) * 1000, 0)"
    lowest = f"GREATEST(LEAST(%s, {present}, {present} / %s), 1)::int::text"
    calls = ", ".join(f"set_config('{name}', {lowest}, true)" for name in limits)
    parameters: list[str | int] = []
    for name, limit in limits.items():
        longer, parts = ("statement_timeout", 2) if name == "lock_timeout" else (name, 1)
        parameters += [limit, name, longer, parts]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {calls}", parameters)
