"""Database sessions, and the chains in which they wait for each other's locks.

A drain may wait for another drain, which waits for a third session. Only the session at the end of the chain
waits for nothing: when it ends, all others continue.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connections
from django.templatetags.tz import localtime

from cachebackend.models import ParkedWrite, WriteBehindCheckpoint

__all__ = ["Blocker", "blockers_of", "is_stuck", "masked", "sessions"]

#: The most characters of a query that are shown.
MAX_QUERY = 120
#: Seconds for which a session of write-behind may be idle in its transaction, between two statements.
IDLE_SECONDS = 5.0
#: Seconds that a statement of write-behind may take: its limit, and the time until Postgres has ended it.
ACTIVE_SECONDS = 60.0
#: Literals in SQL: texts, also with escapes or between dollars, and numbers. They may be secrets.
_LITERAL = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*(?:'|$) | '(?:[^']|'')*(?:'|$) | \$(\w*)\$.*?(?:\$\1\$|$) | \b\d[\w.]*""",
    re.VERBOSE | re.DOTALL,
)
# UNION drops what is known already, so that the chains of many sessions that wait for one row stay short
_CHAINS = """
    WITH RECURSIVE chain(first, pid, blockers) AS (
        SELECT pid, pid, pg_blocking_pids(pid) FROM unnest(%s::int[]) AS pid
        UNION
        SELECT chain.first, next, pg_blocking_pids(next) FROM chain, unnest(chain.blockers) AS next
    )
    SELECT DISTINCT first, pid FROM chain WHERE blockers = '{}' AND pid <> first
"""
_SESSIONS = """
    SELECT a.pid, coalesce(a.application_name, ''), host(a.client_addr), coalesce(a.state, 'not visible'),
        a.xact_start, coalesce(left(a.query, 2000), ''),
        coalesce(extract(epoch FROM clock_timestamp() - a.state_change), 0)::float,
        EXISTS (
            SELECT FROM pg_locks l
            WHERE l.pid = a.pid AND l.granted AND l.locktype = 'relation'
                AND l.relation = ANY(ARRAY[to_regclass(%s), to_regclass(%s)]::oid[])
                AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND l.mode IN ('RowShareLock', 'RowExclusiveLock')
        )
    FROM pg_stat_activity a WHERE a.pid = ANY(%s)
"""


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

    @property
    def way_out(self) -> str:
        """How to end it, as a part of a sentence."""
        return f"end that session: `SELECT pg_terminate_backend({self.pid})`"

    def __str__(self) -> str:
        since = f" since {localtime(self.since):%H:%M:%S}" if self.since else ""
        query = f": {self.query}" if self.query else ""
        name = f"{self.application or 'a session'} at {self.client or 'a local socket'}"
        return f"PID {self.pid} ({name}, {self.state}{since}{query})"


def is_stuck(state: str, seconds: float) -> bool:
    """Return whether a session of write-behind makes no progress: its worker is frozen, or gone.

    Args:
        state: What the session does.
        seconds: For how long it has been in this state.
    """
    return seconds > (ACTIVE_SECONDS if state == "active" else IDLE_SECONDS)


def sessions(using: str, cursor: Any, pids: Iterable[int]) -> dict[int, Blocker]:
    """Return sessions by their process IDs. Those that have ended are left out.

    So are those of write-behind that make progress. They have written to its tables, or locked rows there.
    """
    pids = sorted(set(pids))
    if not pids:
        return {}
    quote = connections[using].ops.quote_name
    own = [quote(model._meta.db_table) for model in (ParkedWrite, WriteBehindCheckpoint)]
    cursor.execute(_SESSIONS, [*own, pids])
    return {
        pid: Blocker(pid, application, client, state, since, masked(query))
        for pid, application, client, state, since, query, seconds, is_own in cursor.fetchall()
        if not is_own or is_stuck(state, seconds)
    }


def blockers_of(using: str, cursor: Any, pids: Iterable[int]) -> Mapping[int, list[Blocker]]:
    """Return for each session that waits the sessions at the ends of its chains: they wait for nothing."""
    cursor.execute(_CHAINS, [sorted(set(pids))])
    ends = cursor.fetchall()
    found = sessions(using, cursor, (pid for _, pid in ends))
    return {first: [found[pid] for of, pid in ends if of == first and pid in found] for first, _ in ends}


def masked(query: str) -> str:
    """Return a query in one line, shortened, with "?" for each literal."""
    text = " ".join(_LITERAL.sub("?", query).split())
    return text if len(text) <= MAX_QUERY else f"{text[: MAX_QUERY - 1]}…"
