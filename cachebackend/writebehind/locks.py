"""The database sessions that hold the lock of a partition, and the sessions that they wait for.

A drain holds the lock of its partition for the length of its transaction. A worker that is frozen, or whose
machine is gone without closing its connection, holds it until Postgres or a person ends its session. A drain
may itself wait for the lock of a row, which another session holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connections

from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol import Partition

__all__ = ["Blocker", "LockHolder", "lock_holders", "masked"]

#: The most characters of a query that are shown.
MAX_QUERY = 120
#: Literals in SQL: texts, also with escapes or between dollars, and numbers. They may be secrets.
_LITERAL = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*(?:'|$) | '(?:[^']|'')*(?:'|$) | \$(\w*)\$.*?(?:\$\1\$|$) | \b\d[\w.]*""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session that another one waits for.

    Attributes:
        pid: The process ID of the session, for ``pg_terminate_backend``.
        application: The name that the client gave itself; empty if none.
        client: The client's address; None for a local socket.
        state: What the session does, such as ``active`` or ``idle in transaction``.
        since: When its transaction began, by the database's clock; None: it is not in one.
        query: Its present or last statement, shortened and without literals; empty if it may not be seen.
    """

    pid: int
    application: str
    client: str | None
    state: str
    since: datetime | None
    query: str

    def __str__(self) -> str:
        since = f" since {self.since:%H:%M:%S}" if self.since else ""
        query = f": {self.query}" if self.query else ""
        return f"PID {self.pid} ({_name(self.application, self.client)}, {self.state}{since}{query})"


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
        blockers: The sessions that it waits for.
    """

    partition: Partition
    pid: int
    application: str
    client: str | None
    state: str
    since: datetime
    seconds: float
    blockers: tuple[Blocker, ...] = ()

    def __str__(self) -> str:
        name = _name(self.application, self.client)
        held = f"{self.partition} is locked by {name} ({self.state}) for {self.seconds:.0f} s"
        if self.blockers:
            pids = ", ".join(f"SELECT pg_terminate_backend({each.pid})" for each in self.blockers)
            return f"{held}, which waits for {' and '.join(map(str, self.blockers))}; to end that: {pids}"
        return (
            f"{held}; if it is not a drain that makes progress, end it: "
            f"SELECT pg_terminate_backend({self.pid})"
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
            "a.xact_start, extract(epoch FROM clock_timestamp() - a.xact_start), pg_blocking_pids(a.pid) "
            f"FROM {table} c "
            "JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = c.xmax "
            "JOIN pg_stat_activity a ON a.pid = l.pid "
            "WHERE a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL ORDER BY a.xact_start, c.id"
        )
        rows = cursor.fetchall()
        blockers = _sessions(cursor, sorted({pid for *_, pids in rows for pid in pids}))
    return [
        LockHolder(
            Partition(label, number),
            pid,
            application,
            client,
            state,
            since,
            float(seconds),
            tuple(blockers[each] for each in pids if each in blockers),
        )
        for label, number, pid, application, client, state, since, seconds, pids in rows
    ]


def masked(query: str) -> str:
    """Return a query in one line, shortened, with "?" for each literal."""
    text = " ".join(_LITERAL.sub("?", query).split())
    return text if len(text) <= MAX_QUERY else f"{text[: MAX_QUERY - 1]}…"


def _sessions(cursor: Any, pids: list[int]) -> dict[int, Blocker]:
    """Return sessions by their process IDs; those that have ended are left out."""
    if not pids:
        return {}
    cursor.execute(
        "SELECT pid, coalesce(application_name, ''), host(client_addr), coalesce(state, 'not visible'), "
        "xact_start, coalesce(left(query, 2000), '') FROM pg_stat_activity WHERE pid = ANY(%s)",
        [pids],
    )
    return {
        pid: Blocker(pid, application, client, state, since, masked(query))
        for pid, application, client, state, since, query in cursor.fetchall()
    }


def _name(application: str, client: str | None) -> str:
    return f"{application or 'a session'} at {client or 'a local socket'}"
