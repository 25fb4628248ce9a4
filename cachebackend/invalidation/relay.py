"""Acts on outbox rows that were left: deletes their keys until every node has confirmed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import DatabaseError, connections, transaction
from django.db.models import F, Q
from django.db.models.functions import Now

from cachebackend.invalidation.outbox import INTENT_SECONDS, has_outbox, keys_in, owing
from cachebackend.invalidation.pending import clear_node, delete_keys, nodes_to_clear
from cachebackend.models import OutboxRow
from cachebackend.protocol.missed_deletes import SETTLING_SECONDS
from cachebackend.telemetry.heartbeat import record_run

__all__ = ["SETTLING_SECONDS", "Relayed", "outbox_lag", "relay"]

logger = logging.getLogger("cachebackend")

ROWS_AT_ONCE = 500


@dataclass(slots=True)
class Relayed:
    """What a run of the relay did, over all databases.

    Attributes:
        rows: Rows that it settled and dropped.
        keys: Keys that it deleted.
        left: Rows that it must act on again.
        lag: Age of the oldest row that it found, in seconds; 0.0 if it found none.
    """

    rows: int = 0
    keys: int = 0
    left: int = 0
    lag: float = 0.0


def relay() -> Relayed:
    """Settle the outbox of every database; may run anywhere, any number at once."""
    record_run("relay")
    relayed = Relayed()
    for using in filter(has_outbox, connections):
        try:
            relayed.lag = max(relayed.lag, outbox_lag(using))
            last: int | None = 0
            while last is not None:  # all of them: rows of a node that is away keep no others waiting
                last = _settle_some(using, last, relayed)
        except DatabaseError:  # one that is away must not keep the others waiting
            logger.exception("the outbox of database %r could not be read", using)
    return relayed


def outbox_lag(using: str) -> float:
    """Return the age of the oldest owed row of a database, in seconds; 0.0 if there is none.

    Intents do not count: they are acted on at every round, and kept in case.
    """
    ages = (
        OutboxRow.objects.using(using)
        .filter(is_intent=False)
        .order_by("created")
        .values_list(Now() - F("created"), flat=True)
    )
    oldest = ages.first()
    return oldest.total_seconds() if oldest is not None else 0.0


def _settle_some(using: str, last: int, relayed: Relayed) -> int | None:
    """Act on some rows after one; return the key of the last of them, None if there was none."""
    skip_locked = connections[using].features.has_select_for_update_skip_locked
    with transaction.atomic(using=using):
        rows = OutboxRow.objects.using(using)
        # What a trigger wrote and is still there, nobody else settles
        due = ~Q(label="") | Q(created__lt=Now() - timedelta(seconds=SETTLING_SECONDS))
        taken = list(
            rows.filter(due, pk__gt=last)
            .order_by("pk")
            .annotate(age=Now() - F("created"))
            .select_for_update(skip_locked=skip_locked)[:ROWS_AT_ONCE]
        )
        left = _Left(taken)
        done = [row for row in reversed(taken) if left.lets_go(row)]
        rows.filter(pk__in=[row.pk for row in done]).delete()
        rows.bulk_create(owing({alias: []}, node=node) for alias, node in left.to_clear)
    relayed.rows += len(done)
    relayed.left += len(taken) - len(done)
    relayed.keys += left.deleted
    return taken[-1].pk if taken else None


class _Left:
    """What of some rows no node confirmed, once all that they owe was asked for.

    Args:
        rows: The rows.

    Attributes:
        deleted: How many keys were confirmed.
        to_clear: Aliases and nodes that were owed too many keys to tell each: everything is
            owed instead, so the outbox grows no longer than the nodes are let miss.
    """

    def __init__(self, rows: Sequence[OutboxRow]) -> None:
        keys: dict[str, set[bytes]] = {}
        cleared: set[tuple[str, str]] = set()
        for row in rows:
            for alias, owed in keys_in(row).items():
                if row.node:
                    cleared.add((alias, row.node))
                else:
                    keys.setdefault(alias, set()).update(owed)
        self._keys = {alias: set(delete_keys(alias, list(owed))) for alias, owed in keys.items()}
        self._nodes = {(alias, node) for alias, node in cleared if not clear_node(alias, node)}
        self.deleted = sum(len(owed) - len(self._keys[alias]) for alias, owed in keys.items())
        self.to_clear: set[tuple[str, str]] = set()
        for alias, left in self._keys.items():
            nodes, self._keys[alias] = nodes_to_clear(alias, left)
            self.to_clear.update((alias, node) for node in nodes)

    def lets_go(self, row: Any) -> bool:
        """Return whether a row is to be dropped: all that it owes is confirmed, or another row owes it."""
        if row.node:
            waiting = {(alias, row.node) for alias in keys_in(row)} & self._nodes
            self._nodes -= waiting  # one row for each is enough
            return not waiting
        confirmed = not any(self._keys[alias].intersection(keys) for alias, keys in keys_in(row).items())
        # The statement of an intent may still be running
        return confirmed and (not row.is_intent or row.age.total_seconds() > INTENT_SECONDS)
