"""Snapshots: rows, each read in one statement with what the database knows of its drains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from django.db import models, router
from django.db.models import F, Value
from django.db.models.functions import Cast, Concat

from cachebackend.models import WriteBehindCheckpoint
from cachebackend.writebehind.changes import Rows
from cachebackend.writebehind.checkpoints import Position
from cachebackend.writebehind.parked_texts import ParkedWrites, parked_texts, parse_parked

__all__ = ["Checkpoints", "Snapshot", "read_rows", "take_snapshot"]

#: How far each queue is drained, by partition number and incarnation.
Checkpoints = Mapping[int, Mapping[str, Position]]


class Snapshot(NamedTuple):
    """What the database holds besides a row, read in the same statement.

    Attributes:
        checkpoints: The last batches that the row contains.
        parked: The parked writes of the rows that are read, by key.
    """

    checkpoints: Checkpoints
    parked: Mapping[bytes, ParkedWrites]


def read_rows(rows: Rows, pks: Mapping[bytes, Any]) -> dict[bytes, tuple[models.Model | None, Snapshot]]:
    """Return each row, or None, with a snapshot that is not newer than the row.

    A row that does not exist cannot carry a snapshot, so one is taken, and then the row is looked
    up again. Batches that are drained in between are then merged into nothing: only one that
    creates the row has an effect, with the whole row, so applying it twice does no harm.
    """
    read = _query(rows, pks)
    if missing := {row: pk for row, pk in pks.items() if row not in read}:
        before = take_snapshot(rows, list(missing))
        read |= _query(rows, missing)
        read |= {row: (None, before) for row in missing if row not in read}
    return read


def _query(rows: Rows, pks: Mapping[bytes, Any]) -> dict[bytes, tuple[models.Model | None, Snapshot]]:
    from django.contrib.postgres.expressions import ArraySubquery

    using = router.db_for_write(rows.model)
    queryset = rows.model._base_manager.using(using).filter(pk__in=list(pks.values()))
    read: dict[bytes, tuple[models.Model | None, Snapshot]] = {}
    for instance in queryset.annotate(
        _writebehind=ArraySubquery(_checkpoint_texts(rows)),
        _writebehind_parked=ArraySubquery(parked_texts(rows.model, list(pks))),
    ):
        checkpoints = _parsed(instance.__dict__.pop("_writebehind"))
        parked = parse_parked(instance.__dict__.pop("_writebehind_parked"))
        read[rows.row(instance.pk)] = instance, Snapshot(checkpoints, parked)
    return read


def take_snapshot(rows: Rows, keys: Sequence[bytes]) -> Snapshot:
    """Return the snapshot of some rows, without the rows."""
    from django.contrib.postgres.expressions import ArraySubquery

    texts = _checkpoint_texts(rows).using(router.db_for_write(rows.model))
    # Without a checkpoint no batch was drained, so no write can be parked
    read = list(texts.values_list("text", ArraySubquery(parked_texts(rows.model, keys))))
    parked = parse_parked(text for _, texts in read[:1] for text in texts)
    return Snapshot(_parsed(text for text, _ in read), parked)


def _checkpoint_texts(rows: Rows) -> models.QuerySet[Any, Any]:
    """Return the checkpoints of a model's partitions, each as one text."""
    names = ("partition", "incarnation", *Position._fields)
    parts = [part for name in names for part in (Cast(F(name), models.CharField()), Value(" "))]
    text = Concat(*parts[:-1])
    of_model = WriteBehindCheckpoint.objects.filter(label=rows.model._meta.label_lower)
    return of_model.annotate(text=text).values_list("text", flat=True)


def _parsed(texts: Iterable[str]) -> Checkpoints:
    parsed: dict[int, dict[str, Position]] = {}
    for text in texts:
        partition, incarnation, *values = text.split(" ")
        position = Position.parse(values)
        parsed.setdefault(int(partition), {})[incarnation] = position
    return parsed
