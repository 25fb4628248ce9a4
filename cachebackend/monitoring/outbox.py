"""Pending deletes: what the outbox tables hold, in all, by node and by key."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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

__all__ = [
    "OutboxFigures",
    "PendingRow",
    "count_missed",
    "outbox_figures",
    "pending_by_node",
    "pending_of_key",
]

#: The most outbox rows that are searched for a key, the newest first.
MAX_SEARCHED_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class OutboxFigures:
    """The outbox tables of all databases.

    Attributes:
        lag: Age of the oldest pending delete, in seconds; None if a database did not answer.
        rows: How many rows there are; None if a database did not answer.
        faults: What is wrong.
    """

    lag: float | None = None
    rows: int | None = None
    faults: list[Fault] = field(default_factory=list)


def outbox_figures() -> OutboxFigures:
    """Return the lag and the number of rows over all databases."""
    try:
        databases = list(filter(has_outbox, connections))
        lag = max(map(outbox_lag, databases), default=0.0)
        rows = sum(OutboxRow.objects.using(using).count() for using in databases)
    except Error as error:
        return OutboxFigures(faults=[Fault("pending", f"The outbox cannot be read: {error}")])
    return OutboxFigures(lag, rows, faults=_lag_faults(lag))


class PendingRow(NamedTuple):
    """An outbox row, as far as it concerns the nodes of one alias.

    Attributes:
        keys_by_node: The nodes that it concerns, by index, each with the row's keys that it may hold.
        is_all_keys: Whether the node must drop every key.
        is_overdue: Whether its writer and the relay have had the time to confirm it.
    """

    keys_by_node: Mapping[int, set[bytes]]
    is_all_keys: bool
    is_overdue: bool


def pending_by_node(client: RingClient, is_up: Sequence[bool]) -> list[int | str]:
    """Return for each node of an alias how many deletes it has missed; "all" if it must drop every key.

    Args:
        client: The alias' client.
        is_up: For each node, whether it answers.

    Raises:
        django.db.Error: A database did not answer.
    """
    rows = (
        PendingRow(_keys_by_node(client, row), bool(row.node), age > REPLAY_AGE_SECONDS and not row.is_intent)
        for row, age in _rows()
    )
    return count_missed(rows, is_up, client.context.missed.limit)


def count_missed(rows: Iterable[PendingRow], is_up: Sequence[bool], limit: float) -> list[int | str]:
    """Return for each node how many deletes it has missed; "all" for more than ``limit``.

    A row does not say which of its nodes have confirmed: it stays until the last one has. So a row
    counts for a node that answers only if nothing else explains why the row is still there:

    - It is overdue. A young row is being confirmed by its own writer, and an intent stays for a
      minute in any case.
    - None of its keys is on a node that does not answer.
    """
    missed: list[set[bytes]] = [set() for _ in is_up]
    misses_all = [False] * len(missed)
    for row in rows:
        down = {node for node in row.keys_by_node if not is_up[node]}
        for node in down or (row.keys_by_node if row.is_overdue else ()):
            missed[node] |= row.keys_by_node[node]
            misses_all[node] |= row.is_all_keys or len(missed[node]) > limit
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
        f"Deletes have been pending for {duration(lag)}: is every node up, and does a worker run? "
        '"manage.py invalidation relay" sends them now.'
    )
    return [Fault("pending", message, time.time() - lag)]


def _rows() -> Iterator[tuple[OutboxRow, float]]:
    """Yield the outbox rows of every database, each with its age in seconds."""
    for using in filter(has_outbox, connections):
        for row in OutboxRow.objects.using(using).annotate(age=Now() - F("created")).iterator():
            yield row, row.age.total_seconds()


def _keys_by_node(client: RingClient, row: OutboxRow) -> dict[int, set[bytes]]:
    """Return the nodes of a client that a row concerns, each with the row's keys that it may hold."""
    aliases, nodes = _aliases(client), range(len(client.nodes))
    keys_by_alias = keys_of_row(row)
    if row.node:  # which keys it holds is not known
        concerned = not aliases.isdisjoint(keys_by_alias)
        return {node: set() for node in nodes if concerned and client.nodes[node].endpoint == row.node}
    keys = {key for alias in aliases for key in keys_by_alias.get(alias, ())}
    held = {node: {key for key in keys if client.context.may_hold(node, key)} for node in nodes}
    return {node: some for node, some in held.items() if some}


def _aliases(client: RingClient) -> set[str]:
    """Return the aliases that share a client: they differ only in the prefix of their keys."""
    return {alias for alias in ring_aliases() if ring_options(alias) == client.context.options}


def _line(row: OutboxRow) -> str:
    kept = ", written before a statement in autocommit and kept for a minute" if row.is_intent else ""
    return f"pending delete, since {moment(row.created.timestamp())}{kept}"
