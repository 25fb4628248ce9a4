"""Pending deletes: what the outbox tables hold, in all, by node and by key."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from django.db import Error, connections
from django.db.models import F
from django.db.models.functions import Now

from cachebackend.client import RingClient
from cachebackend.conf import ring_aliases, ring_options
from cachebackend.invalidation import outbox_lag
from cachebackend.invalidation.outbox import has_outbox, keys_of_row
from cachebackend.models import OutboxRow
from cachebackend.monitoring.faults import MAX_OUTBOX_LAG_SECONDS, REPLAY_AGE_SECONDS, Fault
from cachebackend.monitoring.formatting import duration, moment

__all__ = ["OutboxFigures", "outbox_figures", "pending_by_node", "pending_of_key"]

#: The most outbox rows that are searched for a key, the newest first.
MAX_SEARCHED_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class OutboxFigures:
    """The outbox tables of all databases.

    Attributes:
        lag: Age of the oldest pending delete, in seconds; None if a database did not answer.
        rows: How many rows there are; None if a database did not answer.
        error: Why a database did not answer.
        faults: What is wrong.
    """

    lag: float | None = None
    rows: int | None = None
    error: str = ""
    faults: list[Fault] = field(default_factory=list)


def outbox_figures() -> OutboxFigures:
    """Return the lag and the number of rows over all databases."""
    try:
        databases = list(filter(has_outbox, connections))
        lag = max(map(outbox_lag, databases), default=0.0)
        rows = sum(OutboxRow.objects.using(using).count() for using in databases)
    except Error as error:
        message = f"The database does not answer: {error}"
        return OutboxFigures(error=str(error), faults=[Fault("pending", message)])
    return OutboxFigures(lag, rows, faults=_lag_faults(lag))


def pending_by_node(client: RingClient, is_up: Sequence[bool]) -> list[int | str]:
    """Return for each node of an alias how many deletes it has missed; "all" if it must drop every key.

    A row does not say which of its nodes have confirmed: it stays until the last one has. So for a
    node that answers, a row counts only if nothing else explains why it is still there: it is older
    than its writer and the relay's next run need, it is not an intent, which stays for a minute in
    any case, and none of its keys is on a node that does not answer.

    Args:
        client: The alias' client.
        is_up: For each node, whether it answers.

    Raises:
        django.db.Error: A database did not answer.
    """
    missed: list[set[bytes]] = [set() for _ in client.nodes]
    misses_all = [False] * len(client.nodes)
    for row, age in _rows():
        holders = _holders(client, row)
        down = {node for node in holders if not is_up[node]}
        is_old = age > REPLAY_AGE_SECONDS and not row.is_intent
        for node in down or (holders if is_old else ()):
            missed[node] |= holders[node]
            misses_all[node] |= bool(row.node) or len(missed[node]) > client.context.missed.limit
    return ["all" if is_all else len(keys) for is_all, keys in zip(misses_all, missed, strict=True)]


def pending_of_key(alias: str, client: RingClient, key: bytes) -> list[str]:
    """Return a line for each outbox row that will delete a key, the newest first.

    A database that does not answer, or that has too many rows to search, has a line too.
    """
    endpoints = {
        node.endpoint for index, node in enumerate(client.nodes) if client.context.may_hold(index, key)
    }
    lines = []
    for using in filter(has_outbox, connections):
        try:
            rows = list(OutboxRow.objects.using(using).order_by("-pk")[: MAX_SEARCHED_ROWS + 1])
        except Error as error:
            lines.append(f"the outbox of database {using!r} cannot be read: {error}")
            continue
        for row in rows[:MAX_SEARCHED_ROWS]:
            keys = keys_of_row(row)
            if alias in keys and (key in keys[alias] or row.node in endpoints):
                lines.append(_line(row))
        if len(rows) > MAX_SEARCHED_ROWS:
            lines.append(
                f"database {using!r} has more than the {MAX_SEARCHED_ROWS:,} outbox rows that were searched"
            )
    return lines


def _lag_faults(lag: float) -> list[Fault]:
    if lag <= MAX_OUTBOX_LAG_SECONDS:
        return []
    message = (
        f"Deletes have been pending for {duration(lag)}: check that every node is up and that a worker "
        "runs `relay`, or run `manage.py invalidation relay`."
    )
    return [Fault("pending", message, time.time() - lag)]


def _rows() -> Iterator[tuple[OutboxRow, float]]:
    """Yield the outbox rows of every database, each with its age in seconds."""
    for using in filter(has_outbox, connections):
        for row in OutboxRow.objects.using(using).annotate(age=Now() - F("created")).iterator():
            yield row, row.age.total_seconds()


def _holders(client: RingClient, row: OutboxRow) -> dict[int, set[bytes]]:
    """Return the nodes of a client that a row concerns, each with the row's keys that it may hold."""
    keys_by_alias = keys_of_row(row)
    keys = {key for alias in _aliases(client) for key in keys_by_alias.get(alias, ())}
    if row.node:
        is_concerned = not keys_by_alias.keys().isdisjoint(_aliases(client))
        nodes = [index for index, node in enumerate(client.nodes) if node.endpoint == row.node]
        return {node: keys for node in nodes if is_concerned}
    held = {
        node: {key for key in keys if client.context.may_hold(node, key)} for node in range(len(client.nodes))
    }
    return {node: some for node, some in held.items() if some}


def _aliases(client: RingClient) -> list[str]:
    """Return the aliases that share a client: they differ in their keys' prefix only."""
    return [alias for alias in ring_aliases() if ring_options(alias) == client.context.options]


def _line(row: OutboxRow) -> str:
    kept = ", written before a statement in autocommit and kept for a minute" if row.is_intent else ""
    return f"pending delete, since {moment(row.created.timestamp())}{kept}"
