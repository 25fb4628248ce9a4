"""The database sessions that hold the lock of a partition, and the sessions that they wait for.

A drain holds the lock of its partition for the length of its transaction. A worker that is frozen, or whose
machine is gone without closing its connection, holds it until Postgres or a person ends its session. A drain
may itself wait for the lock of a row, which another session holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db import connections

from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind.sessions import Blocker, blockers_of, is_stuck

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
        state_seconds: For how long it has been in this state.
        blockers: The sessions that it waits for in the end: those that wait for nothing themselves.
    """

    partition: Partition
    pid: int
    application: str
    client: str | None
    state: str
    since: datetime
    seconds: float
    state_seconds: float = 0.0
    blockers: tuple[Blocker, ...] = ()

    @property
    def culprit(self) -> Blocker | None:
        """The session to end, so that the partition is drained; None: it is a drain that makes progress."""
        if self.blockers:
            return self.blockers[0]
        return self.session if is_stuck(self.state, self.state_seconds) else None

    @property
    def session(self) -> Blocker:
        """The session itself."""
        return Blocker(self.pid, self.application, self.client, self.state, self.since, "")

    def __str__(self) -> str:
        held = f"{self.session} holds the lock of {self.partition}"
        if self.culprit is None:
            return f"{held}: a drain that makes progress"
        if self.blockers:
            held = f"{held}, and waits for {' and '.join(map(str, self.blockers))}"
        return f"{held}; {self.culprit.way_out}"


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
            "a.xact_start, extract(epoch FROM clock_timestamp() - a.xact_start)::float, "
            "extract(epoch FROM clock_timestamp() - a.state_change)::float "
            f"FROM {table} c "
            "JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = c.xmax "
            "JOIN pg_stat_activity a ON a.pid = l.pid "
            "WHERE a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL ORDER BY a.xact_start, c.id"
        )
        rows = cursor.fetchall()
        blockers = blockers_of(using, cursor, [pid for _, _, pid, *_ in rows])
    return [
        LockHolder(
            Partition(label, number),
            pid,
            application,
            client,
            state,
            since,
            seconds,
            state_seconds,
            tuple(blockers.get(pid, ())),
        )
        for label, number, pid, application, client, state, since, seconds, state_seconds in rows
    ]
