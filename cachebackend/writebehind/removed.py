"""Queued and parked writes of models that the project no longer has: found, dropped, or drained elsewhere.

No worker drains such a partition, because its model may only be missing for a while, in a deploy.
So a person decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import models, router
from django.db.models import Count, Max

from cachebackend.errors import WriteBehindError
from cachebackend.invalidation.outbox import READ_TIMEOUT
from cachebackend.invalidation.outbox_databases import ask_databases
from cachebackend.models import ParkedWrite, WriteBehindCheckpoint
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind.answers import Answers
from cachebackend.writebehind.drains import drain, drop
from cachebackend.writebehind.queue import model_named
from cachebackend.writebehind.seals import find_dirty
from cachebackend.writebehind.status import all_databases

__all__ = ["RemovedModel", "drain_removed", "drop_removed", "removed_models", "would_replace_newer"]


@dataclass(frozen=True, slots=True)
class RemovedModel:
    """Writes of a model that the project no longer has.

    Attributes:
        label: The model, as it was called: ``app_label.model_name``.
        partitions: Its partitions with queued writes.
        parked: The number of its parked writes.
        since: The time of the oldest queued write, in seconds since 1970; None if none is queued.
        databases: The databases that have its checkpoints or parked writes.
    """

    label: str
    partitions: Sequence[Partition]
    parked: int
    since: float | None = None
    databases: Sequence[str] = ()


def removed_models() -> Answers[RemovedModel]:
    """Return the models that are gone and that have queued or parked writes, by label."""
    dirty = find_dirty()
    queued: dict[str, dict[Partition, float]] = {}
    for partition, since in dirty:
        queued.setdefault(partition.label, {})[partition] = since
    parked: dict[str, dict[str, int]] = {}
    drained: dict[str, list[str]] = {}
    known = all_databases()
    asked = ask_databases(_labels_in, READ_TIMEOUT, known)
    errors = dirty.errors | known.errors
    errors |= {f"database {using!r}": error for using, error in asked.errors.items()}
    for using, (counts, labels) in asked.found.items():
        for label, count in counts:
            parked.setdefault(label, {})[using] = count
        for label in labels:
            drained.setdefault(label, []).append(using)
    gone = [label for label in sorted({*queued, *parked}) if model_named(label) is None]
    found = [
        RemovedModel(
            label,
            list(queued.get(label, {})),
            sum(parked.get(label, {}).values()),
            min(queued.get(label, {}).values(), default=None),
            sorted({*parked.get(label, {}), *drained.get(label, [])}),
        )
        for label in gone
    ]
    return Answers(found, errors)


def _labels_in(using: str) -> tuple[list[tuple[str, int]], list[str]]:
    """Return the models with parked writes in a database, with their number, and those with checkpoints."""
    parked = ParkedWrite.objects.using(using).order_by().values("label").annotate(count=Count("pk"))
    checkpoints = WriteBehindCheckpoint.objects.using(using).values_list("label", flat=True)
    return [(row["label"], row["count"]) for row in parked], list(checkpoints.distinct())


def drop_removed(removed: RemovedModel) -> int:
    """Delete the queued and parked writes of a model that is gone; return the number of batches.

    Raises:
        WriteBehindError: The project has the model, or a database does not answer, so that it is not known
            whether the writes belong to it.
    """
    _require_gone(removed)
    known = _every_database()
    batches = sum(drop(partition, _database_of(partition, known)) for partition in removed.partitions)
    for using in known:
        ParkedWrite.objects.using(using).filter(label=removed.label).delete()
    return batches


def would_replace_newer(removed: RemovedModel, into: type[models.Model]) -> bool:
    """Return whether another model has drained writes since the oldest of these was queued.

    Where both set the same column of a row, the older value would then replace the newer one.
    """
    drained = _checkpoints(router.db_for_write(into), into._meta.label_lower)
    last = drained.aggregate(last=Max("landed_at"))["last"]
    return removed.since is not None and last is not None and last.timestamp() > removed.since


def drain_removed(removed: RemovedModel, into: type[models.Model]) -> int:
    """Drain the queued writes of a model that is gone to another model; return the rows changed.

    Its parked writes become parked writes of the other model. Each batch is drained once, as by
    ``drain``. What the workers have drained of the other model before may be replaced
    (``would_replace_newer``); what they drain afterwards is applied later.

    Raises:
        WriteBehindError: The project has the model, or another worker drains it, or its writes
            belong to another database than those of the other model, or a database does not answer, so
            that it is not known whether they do.
    """
    _require_gone(removed)
    using = router.db_for_write(into)
    _every_database()
    if elsewhere := [each for each in removed.databases if each != using]:
        message = (
            f"the writes of {removed.label} belong to the database {elsewhere[0]!r}, and those of "
            f"{into._meta.label} to {using!r}; name a model of {elsewhere[0]!r}"
        )
        raise WriteBehindError(message)
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
    parked = ParkedWrite.objects.using(using).filter(label=removed.label)
    parked.update(label=into._meta.label_lower)
    return rows


def _checkpoints(using: str, label: str) -> models.QuerySet[WriteBehindCheckpoint]:
    return WriteBehindCheckpoint.objects.using(using).filter(label=label)


def _every_database() -> Sequence[str]:
    """Return the aliases of all databases that may have the writes.

    Raises:
        WriteBehindError: One does not answer.
    """
    known = all_databases()
    for name, error in known.errors.items():
        message = f"{name} does not answer, and may have writes of the model; nothing was changed: {error}"
        raise WriteBehindError(message) from error
    return known


def _database_of(partition: Partition, known: Sequence[str]) -> str:
    """Return the alias of the database with a partition's checkpoints; of several, the first."""
    for using in known:
        if _checkpoints(using, partition.label).filter(partition=partition.number).exists():
            return using
    return router.db_for_write(WriteBehindCheckpoint)


def _require_gone(removed: RemovedModel) -> None:
    if model_named(removed.label) is not None:
        message = f"{removed.label!r} is a model of this project; the workers drain its queued writes"
        raise WriteBehindError(message)
