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
from cachebackend.invalidation import outbox_lag
from cachebackend.invalidation.outbox import INTENT_SECONDS, keys_of_row
from cachebackend.invalidation.outbox_table import has_outbox, may_have_outbox
from cachebackend.models import OutboxRow
from cachebackend.monitoring.faults import MAX_OUTBOX_LAG_SECONDS, REPLAY_AGE_SECONDS, Fault
from cachebackend.monitoring.formatting import duration, moment

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


def outbox_figures(nodes_down: Sequence[str] = ()) -> OutboxFigures:
    """Return the lag and the number of rows over all databases.

    Args:
        nodes_down: The names of the nodes that do not answer, as far as the caller knows.
    """
    try:
        databases = list(filter(has_outbox, connections))
        lag = max(map(outbox_lag, databases), default=0.0)
        rows = sum(OutboxRow.objects.using(using).count() for using in databases)
    except Error as error:
        return OutboxFigures(faults=[Fault("pending", f"The outbox cannot be read: {error}")])
    return OutboxFigures(lag, rows, faults=_lag_faults(lag, nodes_down))


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
    """

    missed: dict[str, list[int | str]]
    incomplete: list[str] = field(default_factory=list)


def pending_by_node(clients: Mapping[str, RingClient], is_up: Mapping[str, Sequence[bool]]) -> PendingByNode:
    """Return how many deletes the nodes have missed. Each outbox row is read once.

    Args:
        clients: The clients of all ring caches, by alias: a row may hold keys of several aliases, and
            a dead node of one of them may be the only reason why the row is still there.
        is_up: For each alias and each node, whether the node answers.

    Raises:
        django.db.Error: A database did not answer.
    """
    names: dict[RingClient, list[str]] = {client: [] for client in clients.values()}
    for alias, client in clients.items():
        names[client].append(alias)
    numbers = dict(zip(names, _numbers(names), strict=True))
    nodes_up = [up for aliases in names.values() for up in is_up[aliases[0]]]
    limits = [client.context.missed.limit for client in names for _ in client.nodes]
    incomplete: list[str] = []
    rows = (
        PendingRow(
            {
                numbers[client][node]: keys
                for client, aliases in names.items()
                for node, keys in _keys_by_node(client, aliases, row.node, keys_by_alias).items()
            },
            bool(row.node),
            age > REPLAY_AGE_SECONDS + (INTENT_SECONDS if row.is_intent else 0),
        )
        for row, age in _oldest_rows(incomplete)
        for keys_by_alias in [keys_of_row(row)]
    )
    missed = count_missed(rows, nodes_up, limits)
    by_alias = {alias: [missed[number] for number in numbers[client]] for alias, client in clients.items()}
    return PendingByNode(by_alias, incomplete)


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
    lines = []
    for using in filter(may_have_outbox, connections):
        try:
            if not has_outbox(using):
                continue
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


def _lag_faults(lag: float, nodes_down: Sequence[str]) -> list[Fault]:
    if lag <= MAX_OUTBOX_LAG_SECONDS:
        return []
    names = ", ".join(sorted(set(nodes_down)))
    if names:
        advice = f"these nodes do not answer: {names}. Their deletes are sent when they are back."
    else:
        advice = 'is every node up, and does a worker run? "manage.py invalidation relay" sends them now.'
    message = f"Deletes have been pending for {duration(lag)}: {advice}"
    return [Fault("pending", message, time.time() - lag)]


def _oldest_rows(incomplete: list[str]) -> Iterator[tuple[OutboxRow, float]]:
    """Yield the oldest outbox rows of every database, each with its age in seconds.

    Args:
        incomplete: The names of the databases that have more rows are appended to it.
    """
    for using in filter(has_outbox, connections):
        rows = OutboxRow.objects.using(using).annotate(age=Now() - F("created")).order_by("pk")
        for count, row in enumerate(rows[: MAX_COUNTED_ROWS + 1].iterator()):
            if count == MAX_COUNTED_ROWS:
                incomplete.append(using)
                break
            yield row, row.age.total_seconds()


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


def _line(row: OutboxRow) -> str:
    kept = ", written before a statement and stored for one minute" if row.is_intent else ""
    return f"pending delete, since {moment(row.created.timestamp())}{kept}"
