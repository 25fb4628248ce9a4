"""The database sessions that hold the lock of a partition, so that nothing of it is drained meanwhile.

A drain holds the lock for the length of its transaction. A worker that is frozen, or whose machine
is gone without closing its connection, holds it until Postgres or a person ends its session.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db import connections

from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol import Partition

__all__ = ["LockHolder", "lock_holders"]


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A session that holds the lock of a partition.

    Attributes:
        partition: The partition.
        pid: The process ID of the session, for ``pg_terminate_backend``.
        application: The name that the client gave itself; empty if none.
        client: The client's address; None for a local socket.
        state: What the session does, such as ``active`` or ``idle in transaction``.
        since: When its transaction began, by the database's clock.
        seconds: For how long it has held it.
    """

    partition: Partition
    pid: int
    application: str
    client: str | None
    state: str
    since: datetime
    seconds: float

    def __str__(self) -> str:
        name = f"{self.application or 'a session'} at {self.client or 'a local socket'}"
        return (
            f"{self.partition} is locked by {name} ({self.state}) for {self.seconds:.0f} s; if it is not a "
            f"drain that makes progress, end it: SELECT pg_terminate_backend({self.pid})"
        )


def lock_holders(using: str) -> list[LockHolder]:
    """Return the sessions that hold the lock of a partition; none on a database other than Postgres.

    Raises:
        django.db.Error: The database did not answer.
    """
    connection = connections[using]
    if connection.vendor != "postgresql":
        return []
    table = connection.ops.quote_name(WriteBehindCheckpoint._meta.db_table)
    # The lock of a row is not in pg_locks. Its xmax is the transaction that holds it, or once held it; one
    # that still runs holds the lock of its own transaction ID.
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.label, c.partition, a.pid, a.application_name, host(a.client_addr), a.state, "
            "a.xact_start, extract(epoch FROM clock_timestamp() - a.xact_start) "
            f"FROM {table} c "
            "JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = c.xmax "
            "JOIN pg_stat_activity a ON a.pid = l.pid "
            "WHERE a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL ORDER BY a.xact_start, c.id"
        )
        return [
            LockHolder(Partition(label, number), pid, application, client, state, since, float(seconds))
            for label, number, pid, application, client, state, since, seconds in cursor.fetchall()
        ]
