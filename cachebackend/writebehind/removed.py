"""Queued and parked writes of models that the project no longer has: found, dropped, or drained elsewhere.

No worker drains such a partition, because its model may only be missing for a while, in a deploy.
So a person decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import models, router
from django.db.models import Count

from cachebackend.errors import WriteBehindError
from cachebackend.models import ParkedWrite
from cachebackend.protocol import Partition
from cachebackend.writebehind.drains import drain, drop
from cachebackend.writebehind.queue import model_named
from cachebackend.writebehind.seals import dirty_partitions
from cachebackend.writebehind.status import databases

__all__ = ["RemovedModel", "drain_removed", "drop_removed", "removed_models"]


@dataclass(frozen=True, slots=True)
class RemovedModel:
    """Writes of a model that the project no longer has.

    Attributes:
        label: The model, as it was called: ``app_label.model_name``.
        partitions: Its partitions with queued writes.
        parked: The number of its parked writes.
    """

    label: str
    partitions: Sequence[Partition]
    parked: int


def removed_models() -> list[RemovedModel]:
    """Return the models that are gone and that have queued or parked writes, by label.

    Raises:
        NodeUnavailableError: No queue node answered.
    """
    partitions: dict[str, list[Partition]] = {}
    for partition, _ in dirty_partitions():
        partitions.setdefault(partition.label, []).append(partition)
    parked: dict[str, int] = {}
    for using in databases():
        counted = ParkedWrite.objects.using(using).order_by().values("label").annotate(count=Count("pk"))
        for row in counted:
            parked[row["label"]] = parked.get(row["label"], 0) + row["count"]
    return [
        RemovedModel(label, partitions.get(label, []), parked.get(label, 0))
        for label in sorted({*partitions, *parked})
        if model_named(label) is None
    ]


def drop_removed(removed: RemovedModel) -> int:
    """Delete the queued and parked writes of a model that is gone; return the number of batches.

    Raises:
        WriteBehindError: The project has the model.
    """
    _require_gone(removed)
    batches = sum(drop(partition) for partition in removed.partitions)
    for using in databases():
        ParkedWrite.objects.using(using).filter(label=removed.label).delete()
    return batches


def drain_removed(removed: RemovedModel, into: type[models.Model]) -> int:
    """Drain the queued writes of a model that is gone to another model; return the rows changed.

    Its parked writes become parked writes of the other model. Each batch is drained once, as by
    ``drain``; a write that is queued for the other model already may be applied first.

    Raises:
        WriteBehindError: The project has the model, or another worker drains it.
    """
    _require_gone(removed)
    rows = 0
    for partition in removed.partitions:
        is_unfinished = True
        while is_unfinished:
            drained = drain(partition, into=into)
            rows += drained.rows
            is_unfinished = drained.more
            if drained.more and not drained.batches:
                message = f"{partition} cannot be drained now; try again"
                raise WriteBehindError(message)
    parked = ParkedWrite.objects.using(router.db_for_write(into)).filter(label=removed.label)
    parked.update(label=into._meta.label_lower)
    return rows


def _require_gone(removed: RemovedModel) -> None:
    if model_named(removed.label) is not None:
        message = f"{removed.label!r} is a model of this project; the workers drain its queued writes"
        raise WriteBehindError(message)
