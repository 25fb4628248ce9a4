"""The relay: processes pending outbox rows, and deletes their keys until every node has confirmed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, connections, transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from cachebackend.invalidation.deletes import clear_node, delete_keys, nodes_to_clear
from cachebackend.invalidation.outbox import (
    INTENT_SECONDS,
    delete_rows,
    has_outbox,
    keys_of_row,
    write_row,
)
from cachebackend.invalidation.watched import KeysByAlias, add_keys
from cachebackend.models import OutboxRow
from cachebackend.protocol.missed_deletes import SETTLING_SECONDS
from cachebackend.telemetry.heartbeat import record_run

__all__ = ["SETTLING_SECONDS", "RelayResult", "outbox_lag", "relay"]

logger = logging.getLogger("cachebackend")

#: Outbox rows that one transaction of the relay locks and processes.
ROWS_PER_PAGE = 500


@dataclass(slots=True)
class RelayResult:
    """What one run of the relay did, over all databases.

    Attributes:
        rows: Rows whose keys every node confirmed, and that were deleted.
        keys: Keys that were deleted on their nodes.
        pending: Rows that the next run must process again.
        lag: Age of the oldest row that the run found, in seconds; 0.0 if it found none.
    """

    rows: int = 0
    keys: int = 0
    pending: int = 0
    lag: float = 0.0


def relay() -> RelayResult:
    """Process the outbox of every database. Any number of processes may run it at the same time."""
    record_run("relay")
    result = RelayResult()
    for using in filter(has_outbox, connections):
        try:
            result.lag = max(result.lag, outbox_lag(using))
            last: int | None = 0
            while last is not None:  # every page: rows of a node that is down do not delay the others
                last = _process_page(using, last, result)
        except DatabaseError:  # a database that is down must not delay the others
            logger.exception("the outbox of database %r could not be read", using)
    return result


def outbox_lag(using: str) -> float:
    """Return the age of a database's oldest pending row, in seconds; 0.0 if there is none.

    Intents do not count: every round processes them, and they are kept for ``INTENT_SECONDS``.
    """
    ages = (
        OutboxRow.objects.using(using)
        .filter(is_intent=False)
        .order_by("created")
        .values_list(Now() - F("created"), flat=True)
    )
    oldest = ages.first()
    return oldest.total_seconds() if oldest is not None else 0.0


def _process_page(using: str, after: int, result: RelayResult) -> int | None:
    """Process the rows whose keys follow ``after``; return the last key, None if there was no row."""
    skip_locked = connections[using].features.has_select_for_update_skip_locked
    # A young row is most likely being handled by its writer; a trigger's row is the relay's alone
    is_due = ~Q(label="") | Q(created__lt=Now() - timedelta(seconds=SETTLING_SECONDS))
    with transaction.atomic(using=using):
        rows = list(
            OutboxRow.objects.using(using)
            .filter(is_due, pk__gt=after)
            .order_by("pk")
            .annotate(age=Now() - F("created"))
            .select_for_update(skip_locked=skip_locked)[:ROWS_PER_PAGE]
        )
        page = _Page(rows)
        confirmed = page.confirmed_rows()
        delete_rows(using, *[row.pk for row in confirmed])
        for alias, node in page.to_clear:
            write_row(using, {alias: []}, node=node)
    result.rows += len(confirmed)
    result.pending += len(rows) - len(confirmed)
    result.keys += page.deleted
    return rows[-1].pk if rows else None


class _Page:
    """Some outbox rows, and the keys and nodes that were not confirmed when their deletes were sent.

    Args:
        rows: The rows, annotated with their ``age``.

    Attributes:
        deleted: The number of keys that were confirmed.
        to_clear: Aliases and nodes whose unconfirmed keys are too many to list. A row for the whole
            node replaces the rows of these keys, so the outbox does not grow without limit.
    """

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = [(row, keys_of_row(row)) for row in rows]
        keys: KeysByAlias = {}
        clears: set[tuple[str, str]] = set()
        for row, row_keys in self._rows:
            if row.node:
                clears.update((alias, row.node) for alias in row_keys)
            else:
                add_keys(keys, row_keys)
        self._unconfirmed = delete_keys(keys)
        self._uncleared = {(alias, node) for alias, node in clears if not clear_node(alias, node)}
        self.deleted = sum(map(len, keys.values())) - sum(map(len, self._unconfirmed.values()))
        self.to_clear: set[tuple[str, str]] = set()
        for alias, unconfirmed in self._unconfirmed.items():
            nodes, self._unconfirmed[alias] = nodes_to_clear(alias, unconfirmed)
            self.to_clear.update((alias, node) for node in nodes)

    def confirmed_rows(self) -> list[Any]:
        """Return the rows to delete: every node confirmed them, or another row covers them."""
        confirmed: list[Any] = []
        uncleared = set(self._uncleared)
        for row, keys in reversed(self._rows):
            if row.node:
                pending = {(alias, row.node) for alias in keys} & uncleared
                uncleared -= pending  # one row for each node and alias is enough
                is_confirmed = not pending
            else:
                is_confirmed = self._are_confirmed(keys) and not _may_be_running(row)
            if is_confirmed:
                confirmed.append(row)
        return confirmed

    def _are_confirmed(self, keys: KeysByAlias) -> bool:
        return not any(self._unconfirmed.get(alias, set()) & group for alias, group in keys.items())


def _may_be_running(row: Any) -> bool:
    """Return whether the statement of an intent may still be running."""
    return bool(row.is_intent and row.age.total_seconds() <= INTENT_SECONDS)
