"""Pending deletes: what the outbox tables hold, in all, by node and by key."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from django.db import InterfaceError, OperationalError, connections

from cachebackend.backend.engine_names import engine_name
from cachebackend.client import RingClient
from cachebackend.invalidation import outbox_lag
from cachebackend.invalidation.outbox import INTENT_SECONDS, READ_TIMEOUT
from cachebackend.invalidation.outbox_databases import Server, ask_databases, server_of, unanswered_since
from cachebackend.invalidation.outbox_keys import pending_rows, read_row
from cachebackend.invalidation.outbox_pages import paged
from cachebackend.invalidation.outbox_table import has_outbox
from cachebackend.invalidation.set_aside import set_aside_errors, set_aside_since
from cachebackend.monitoring.faults import MAX_OUTBOX_LAG_SECONDS, REPLAY_AGE_SECONDS, Fault, database_scope
from cachebackend.monitoring.formatting import duration, moment
from cachebackend.monitoring.runbook import FaultKind

__all__ = [
    "OutboxFigures",
    "PendingByNode",
    "PendingRow",
    "count_missed",
    "outbox_figures",
    "pending_by_node",
    "pending_of_key",
]

#: The most outbox rows that are searched for a key, the newest first.
MAX_SEARCHED_ROWS = 20_000
#: The most outbox rows of a database that are counted by node, the oldest first.
MAX_COUNTED_ROWS = 10_000
#: The most bytes of outbox rows of a database that are searched or counted.
MAX_BYTES = 64 * 1024**2
#: The most rows that are set aside of which the error is shown.
MAX_SHOWN = 3
_UNREAD = "The outbox of database {!r} cannot be read: {}"


@dataclass(frozen=True, slots=True)
class OutboxFigures:
    """The outbox tables of all databases.

    Attributes:
        lag: Age of the oldest pending delete, in seconds; None if a database did not answer.
        rows: How many rows are pending; None if a database did not answer.
        faults: What is wrong.
    """

    lag: float | None = None
    rows: int | None = None
    faults: list[Fault] = field(default_factory=list)


class _Outbox(NamedTuple):
    """The outbox table of one database, or nothing (no ``server``) if it has none of its own."""

    server: Server | None = None
    lag: float = 0.0
    rows: int = 0
    set_aside: Sequence[str] = ()
    set_aside_since: float | None = None


def outbox_figures(nodes_down: Sequence[str] = (), *, is_relay_late: bool | None = None) -> OutboxFigures:
    """Return the lag and the number of rows over all databases; each database is counted once.

    Args:
        nodes_down: The names of the nodes that do not answer, as far as the caller knows.
        is_relay_late: Whether the relay does not run; None: the caller does not know.
    """
    asked = ask_databases(_read_outbox, READ_TIMEOUT)
    by_server = {outbox.server: (using, outbox) for using, outbox in asked.found.items() if outbox.server}
    outboxes = dict(by_server.values())
    faults = [_database_fault(using, error) for using, error in asked.errors.items()]
    faults += [fault for using, outbox in outboxes.items() for fault in _set_aside_faults(using, outbox)]
    lag = max((outbox.lag for outbox in outboxes.values()), default=0.0)
    late = [using for using, outbox in outboxes.items() if outbox.lag > MAX_OUTBOX_LAG_SECONDS]
    scope = database_scope(*late)
    faults += [
        replace(fault, scope=scope) for fault in _lag_faults(lag, nodes_down, is_relay_late=is_relay_late)
    ]
    if asked.errors:
        return OutboxFigures(faults=faults)
    return OutboxFigures(lag, sum(outbox.rows for outbox in outboxes.values()), faults)


def _database_fault(using: str, error: Exception) -> Fault:
    """Return the fault of a database that did not answer, or whose outbox has an error."""
    text, since, scope = _first_line(error), unanswered_since(using), database_scope(using)
    if not isinstance(error, OperationalError | InterfaceError | TimeoutError):
        return Fault(FaultKind.DATABASE_DOWN, _UNREAD.format(using, text), since, scope=scope)
    settings = connections[using].settings_dict
    address = ":".join(str(settings[name]) for name in ("HOST", "PORT") if settings.get(name))
    server = f"{engine_name(using)} at {address}" if address else engine_name(using)
    message = f"{server} does not answer (database {using!r}): {text}"
    return Fault(FaultKind.DATABASE_DOWN, message, since, scope=scope)


def _first_line(error: Exception) -> str:
    """Return the first line of an error; psycopg's later lines ask whether the server runs."""
    return str(error).partition("\n")[0]


def _set_aside_faults(using: str, outbox: _Outbox) -> Iterator[Fault]:
    """Yield a fault if rows of a database are set aside, with what is known of the first ones."""
    if not (count := len(outbox.set_aside)):
        return
    rows = "One row" if count == 1 else f"{count:,} rows"
    errors = "; ".join(outbox.set_aside[:MAX_SHOWN])
    text = f"{rows} of the outbox of database {using!r} cannot be read; nothing is stale: {errors}"
    yield Fault(FaultKind.OUTBOX_UNREADABLE, text, outbox.set_aside_since)


def _read_outbox(using: str) -> _Outbox:
    """Return the outbox of one database; that of a replica is its primary's."""
    if not has_outbox(using) or (server := server_of(using)).is_replica:
        return _Outbox()
    same = server._replace(is_read_only=False)
    errors = set_aside_errors(using)
    since = set_aside_since(using) if errors else None
    return _Outbox(same, outbox_lag(using), pending_rows(using).count(), errors, since)


class PendingRow(NamedTuple):
    """An outbox row, as far as it concerns the nodes of some clients; nodes are numbered over all of them.

    Attributes:
        keys_by_node: The nodes that it concerns, by number, each with the row's keys that it may hold.
        is_all_keys: Whether the node must drop every key.
        is_overdue: Whether its writer and the relay have had the time to confirm it.
    """

    keys_by_node: Mapping[int, set[bytes]]
    is_all_keys: bool
    is_overdue: bool


@dataclass(frozen=True, slots=True)
class PendingByNode:
    """How many deletes each node has missed.

    Attributes:
        missed: By alias, the number of keys for each node; "all" if the node must drop every key.
        incomplete: The databases that have more than ``MAX_COUNTED_ROWS`` outbox rows: only their
            oldest rows were counted.
        errors: Why the rows of a database are not counted, by its alias.
    """

    missed: dict[str, list[int | str]]
    incomplete: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)


def pending_by_node(clients: Mapping[str, RingClient], is_up: Mapping[str, Sequence[bool]]) -> PendingByNode:
    """Return how many deletes the nodes have missed. Each outbox row is read once.

    Args:
        clients: The clients of all ring caches, by alias: a row may hold keys of several aliases, and
            a dead node of one of them may be the only reason why the row is still there.
        is_up: For each alias and each node, whether the node answers.
    """
    names: dict[RingClient, list[str]] = {client: [] for client in clients.values()}
    for alias, client in clients.items():
        names[client].append(alias)
    numbers = dict(zip(names, _numbers(names), strict=True))
    nodes_up = [up for aliases in names.values() for up in is_up[aliases[0]]]
    limits = [client.context.missed.limit for client in names for _ in client.nodes]

    def pending(row: Any) -> PendingRow:
        keys_by_alias = read_row(row).keys
        return PendingRow(
            {
                numbers[client][node]: keys
                for client, aliases in names.items()
                for node, keys in _keys_by_node(client, aliases, row.node, keys_by_alias).items()
            },
            bool(row.node),
            row.age.total_seconds() > REPLAY_AGE_SECONDS + (INTENT_SECONDS if row.is_intent else 0),
        )

    asked = ask_databases(lambda using: [row and pending(row) for row in _oldest_rows(using)], READ_TIMEOUT)
    incomplete = [using for using, rows in asked.found.items() if None in rows[-1:]]
    missed = count_missed((row for rows in asked.found.values() for row in rows if row), nodes_up, limits)
    by_alias = {alias: [missed[number] for number in numbers[client]] for alias, client in clients.items()}
    return PendingByNode(by_alias, incomplete, {using: str(error) for using, error in asked.errors.items()})


def count_missed(
    rows: Iterable[PendingRow], is_up: Sequence[bool], limits: Sequence[float]
) -> list[int | str]:
    """Return for each node how many keys it has missed; "all" for more than the node's limit.

    A row does not say which of its nodes have confirmed: it stays until the last one has. So a row
    counts for a node that answers only if nothing else explains why the row is still there:

    - It is overdue. A young row is being confirmed by its own writer, and an intent, which an earlier
      release wrote, stays for a minute in any case.
    - None of its keys, of any alias, is on a node that does not answer.
    """
    missed: list[set[bytes]] = [set() for _ in is_up]
    misses_all = [False] * len(missed)
    for row in rows:
        down = {node for node in row.keys_by_node if not is_up[node]}
        for node in down or (row.keys_by_node if row.is_overdue else ()):
            if not misses_all[node]:
                missed[node] |= row.keys_by_node[node]
                misses_all[node] = row.is_all_keys or len(missed[node]) > limits[node]
    return ["all" if is_all else len(keys) for is_all, keys in zip(misses_all, missed, strict=True)]


def pending_of_key(alias: str, client: RingClient, key: bytes) -> list[str]:
    """Return a line for each outbox row that will delete a key, the newest first.

    A database that does not answer, or that has too many rows to search, has a line too.
    """
    endpoints = {
        node.endpoint for index, node in enumerate(client.nodes) if client.context.may_hold(index, key)
    }
    asked = ask_databases(lambda using: _lines(using, alias, key, endpoints), READ_TIMEOUT)
    return [line for lines in asked.found.values() for line in lines] + [
        f"the outbox of database {using!r} cannot be read: {error}" for using, error in asked.errors.items()
    ]


def _lines(using: str, alias: str, key: bytes, endpoints: AbstractSet[str]) -> list[str]:
    """Return the lines of ``pending_of_key`` for one database."""
    if not has_outbox(using) or server_of(using).is_replica:
        return []
    lines = []
    for row in _first(paged(pending_rows(using), newest_first=True), MAX_SEARCHED_ROWS):
        if row is None:
            lines.append(f"database {using!r} has more outbox rows than were searched: they are too many")
            break
        keys, error = read_row(row)
        if error:
            lines.append(f"{_line(row)}, which cannot be read: {error}")
        elif alias in keys and (key in keys[alias] or row.node in endpoints):
            lines.append(_line(row))
    return lines


def _lag_faults(lag: float, nodes_down: Sequence[str], *, is_relay_late: bool | None) -> list[Fault]:
    if lag <= MAX_OUTBOX_LAG_SECONDS:
        return []
    names = ", ".join(sorted(set(nodes_down)))
    pending, advice = f"Deletes have been pending for {duration(lag)}", ""
    if is_relay_late:
        nodes = f"; those of {names} wait for these nodes too" if names else ""
        message = f"{pending}: no relay runs{nodes}."
        advice = "Start what runs the relay; `manage.py invalidation relay` sends them now."
    elif names:
        message = f"{pending}: these nodes do not answer: {names}. Their deletes are sent when they are back."
    elif is_relay_late is None:
        message = f"{pending}: a node does not answer, or no relay runs."
    else:
        message = f"{pending}, although every node answers this process and the relay runs."
        advice = "Read the log of the worker that runs the relay."
    return [Fault(FaultKind.DELETES_PENDING, message, time.time() - lag, advice)]


def _oldest_rows(using: str) -> Iterator[Any]:
    """Yield the oldest outbox rows of a database, as ``_first``; none of a replica."""
    if has_outbox(using) and not server_of(using).is_replica:
        yield from _first(paged(pending_rows(using)), MAX_COUNTED_ROWS)


def _first(rows: Iterable[Any], limit: int) -> Iterator[Any]:
    """Yield the first ``limit`` rows, at most ``MAX_BYTES`` of them; then None if there are more."""
    length = 0
    for number, row in enumerate(rows):
        length += row.size
        if number == limit or (number and length > MAX_BYTES):
            yield None
            return
        yield row


def _numbers(clients: Iterable[RingClient]) -> Iterator[range]:
    """Number the nodes of all clients; yield the numbers of each client's nodes."""
    start = 0
    for client in clients:
        yield range(start, start + len(client.nodes))
        start += len(client.nodes)


def _keys_by_node(
    client: RingClient, aliases: Iterable[str], endpoint: str, keys_by_alias: Mapping[str, Iterable[bytes]]
) -> dict[int, set[bytes]]:
    """Return the nodes of a client that a row concerns, each with the row's keys that it may hold.

    Args:
        client: The client.
        aliases: Its aliases, which differ only in the prefix of their keys.
        endpoint: The row's node, if the node must drop every key: which keys it holds is not known.
        keys_by_alias: The row's keys.
    """
    concerned = [alias for alias in aliases if alias in keys_by_alias]
    if endpoint:
        same = (index for index, node in enumerate(client.nodes) if node.endpoint == endpoint)
        return {index: set() for index in same if concerned}
    held: dict[int, set[bytes]] = {}
    for alias in concerned:
        for key in keys_by_alias[alias]:
            for node in client.context.holders(key):
                held.setdefault(node, set()).add(key)
    return held


def _line(row: Any) -> str:
    kept = ", written before a statement and stored for one minute" if row.is_intent else ""
    return f"pending delete, since {moment(time.time() - row.age.total_seconds())}{kept}"
