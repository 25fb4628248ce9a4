"""Snapshots: rows, each read in one statement with what the database knows of its drains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from django.db import models, router

from cachebackend.models import ParkedWrite, WriteBehindCheckpoint
from cachebackend.writebehind.changes import Rows
from cachebackend.writebehind.checkpoints import Position
from cachebackend.writebehind.parked_texts import ParkedWrites, Words, parked_texts, parse_parked
from cachebackend.writebehind.remembered_queries import Parameter, RememberedQuery

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


def read_rows(
    rows: Rows, pks: Mapping[bytes, Any], count: int
) -> dict[bytes, tuple[models.Model | None, Snapshot]]:
    """Return each row, or None, with a snapshot that is not newer than the row.

    Args:
        rows: The rows' model.
        pks: The primary keys of the rows, by their keys in the queue.
        count: The number of partitions.

    A row that does not exist cannot carry a snapshot, so one is taken, and then the row is looked
    up again. Batches that are drained in between are then merged into nothing: only one that
    creates the row has an effect, with the whole row, so applying it twice does no harm.
    """
    read = _query(rows, pks, count)
    if missing := {row: pk for row, pk in pks.items() if row not in read}:
        before = take_snapshot(rows, list(missing), count)
        read |= _query(rows, missing, count)
        read |= {row: (None, before) for row in missing if row not in read}
    return read


def _query(
    rows: Rows, pks: Mapping[bytes, Any], count: int
) -> dict[bytes, tuple[models.Model | None, Snapshot]]:
    using, numbers, keys = router.db_for_write(rows.model), _numbers(rows, pks, count), _texts(pks)
    found: Iterable[Sequence[Any]]
    if len(pks) == 1:
        found = _one_row(rows).rows(using, pk=next(iter(pks.values())), partition=numbers[0], key=keys[0])
    else:
        found = _with_snapshots(rows, using, list(pks.values()), numbers, keys)
    names = _names(rows.model)
    read: dict[bytes, tuple[models.Model | None, Snapshot]] = {}
    for *values, checkpoints, parked in found:
        instance = rows.model.from_db(using, names, values)
        read[rows.row(instance.pk)] = instance, Snapshot(_parsed(checkpoints), parse_parked(parked))
    return read


def _with_snapshots(
    rows: Rows, using: str, pks: Sequence[Any], numbers: Sequence[Any], keys: Sequence[Any]
) -> models.QuerySet[Any, Any]:
    """Return the rows with some primary keys, and for each the texts of its checkpoints and parked writes."""
    from django.contrib.postgres.expressions import ArraySubquery

    checkpoints = ArraySubquery(_checkpoint_texts(rows, numbers))
    parked = ArraySubquery(parked_texts(rows.model, keys))
    found = rows.model._base_manager.using(using).filter(pk__in=pks)
    return found.values_list(*_names(rows.model), checkpoints, parked)


@cache
def _one_row(rows: Rows) -> RememberedQuery:
    """Return the query for one row, which most calls ask for."""
    pk = Parameter("pk", rows.model, "pk")
    number = Parameter("partition", WriteBehindCheckpoint, "partition")
    key = Parameter("key", ParkedWrite, "key")
    return RememberedQuery(lambda using: _with_snapshots(rows, using, [pk], [number], [key]))


def _numbers(rows: Rows, keys: Iterable[bytes], count: int) -> list[int]:
    """Return the numbers of the partitions of some rows."""
    return list({rows.partition(key, count).number for key in keys})


def _texts(keys: Iterable[bytes]) -> list[str]:
    """Return the keys of rows as parked writes have them."""
    return [key[:-1].decode() for key in keys]


@cache
def _names(model: type[models.Model]) -> list[str]:
    return [field.attname for field in model._meta.concrete_fields]


def take_snapshot(rows: Rows, keys: Sequence[bytes], count: int) -> Snapshot:
    """Return the snapshot of some rows, without the rows; arguments as for ``read_rows``."""
    from django.contrib.postgres.expressions import ArraySubquery

    texts = _checkpoint_texts(rows, _numbers(rows, keys, count)).using(router.db_for_write(rows.model))
    # Without a checkpoint no batch was drained, so no write can be parked
    read = list(texts.values_list("text", ArraySubquery(parked_texts(rows.model, _texts(keys)))))
    parked = parse_parked(text for _, texts in read[:1] for text in texts)
    return Snapshot(_parsed(text for text, _ in read), parked)


def _checkpoint_texts(rows: Rows, numbers: Sequence[Any]) -> models.QuerySet[Any, Any]:
    """Return the checkpoints of some of a model's partitions, each as one text."""
    text = Words("partition", "incarnation", *Position._fields)
    own = WriteBehindCheckpoint.objects.filter(label=rows.model._meta.label_lower, partition__in=numbers)
    return own.annotate(text=text).values_list("text", flat=True)


def _parsed(texts: Iterable[str]) -> Checkpoints:
    parsed: dict[int, dict[str, Position]] = {}
    for text in texts:
        partition, incarnation, *values = text.split(" ")
        position = Position.parse(values)
        parsed.setdefault(int(partition), {})[incarnation] = position
    return parsed
