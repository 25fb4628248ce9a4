"""The row of a queue's checkpoint, as every drain locks it and sets it to the next batch."""

from __future__ import annotations

from typing import Any

from django.db import connections, models
from django.db.models import F
from django.utils import timezone

from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind.apply import Applied
from cachebackend.writebehind.remembered_queries import Parameter, RememberedQuery, RememberedUpdate

__all__ = ["lock_row", "store_drained"]

#: The columns of a checkpoint that a drain reads; all others are deferred.
_COLUMNS = (
    "id",
    "label",
    "partition",
    "incarnation",
    "batch",
    "seal",
    "is_ended",
    "sampled_open",
    "sampled_batch",
    "sampled_seal",
)


def _column(name: str) -> Parameter:
    return Parameter(name, WriteBehindCheckpoint, name)


def _locked(using: str) -> models.QuerySet[Any, Any]:
    own = {name: _column(name) for name in ("label", "partition", "incarnation")}
    skip_locked = connections[using].features.has_select_for_update_skip_locked
    checkpoints = WriteBehindCheckpoint.objects.using(using).filter(**own)
    return checkpoints.select_for_update(skip_locked=skip_locked).values_list(*_COLUMNS)


_LOCKED = RememberedQuery(_locked)
_DRAINED = RememberedUpdate(
    lambda using: WriteBehindCheckpoint.objects.using(using).filter(id=_column("id")),
    is_ended=False,
    batch=_column("batch"),
    seal=_column("seal"),
    landed_at=_column("landed_at"),
    rows=F("rows") + _column("rows"),
    missing=F("missing") + _column("missing"),
)


def lock_row(partition: Partition, incarnation: str, using: str) -> WriteBehindCheckpoint | None:
    """Return the checkpoint of a queue, locked; None if there is none, or another worker holds the lock."""
    rows = _LOCKED.rows(using, label=partition.label, partition=partition.number, incarnation=incarnation)
    return next((WriteBehindCheckpoint.from_db(using, _COLUMNS, row) for row in rows), None)


def store_drained(
    checkpoint: WriteBehindCheckpoint, using: str, number: int, seal: str, applied: Applied
) -> None:
    """Set a checkpoint to a batch, in the transaction that applies the batch.

    Args:
        checkpoint: The checkpoint, which is locked.
        using: The alias of its database.
        number: The number of the batch.
        seal: Its seal.
        applied: The result of applying it.
    """
    _DRAINED.update(
        using,
        id=checkpoint.pk,
        batch=number,
        seal=seal,
        landed_at=timezone.now(),
        rows=applied.rows,
        missing=applied.missing,
    )
