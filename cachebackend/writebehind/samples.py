"""Samples of the queues in the database: what a queue node must still have when it comes back.

A checkpoint knows a queue only up to the last drained batch. A node that lost everything after it,
and before the next drain, would look as if nothing had been written. So each tick stores, after
the seals are on the node's disk, which batch is open and the seal of a sealed batch. A queue that
shows less stops its partition.

What was acknowledged after the last sample is not covered: since the last tick, and, while a
sealed batch waits for its drain, since the open batch was begun. No sample is stored while the
database does not answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from django.db import connections, router, transaction
from django.utils import timezone

from cachebackend.client.queue import QueueClient
from cachebackend.errors import RingCacheError
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol.queue import Partition, QueueState
from cachebackend.protocol.queue.sealing import Sealed
from cachebackend.writebehind.checkpoints import Queues, mismatch_of
from cachebackend.writebehind.engines import engine_fault
from cachebackend.writebehind.queue import model_named

__all__ = ["Sample", "by_database", "store_samples"]

#: The columns of a checkpoint that a sample changes, and their types, after the row's key.
_COLUMNS = {
    "id": "bigint",
    "sampled_open": "bigint",
    "sampled_batch": "bigint",
    "sampled_seal": "text",
    "sampled_at": "timestamptz",
    "is_ended": "boolean",
}


class Sample(NamedTuple):
    """A queue as it was sampled. While nodes are replaced a partition has several queues.

    Attributes:
        partition: The partition.
        state: The queue.
        sealed: Its state after its seals were synced to disk.
    """

    partition: Partition
    state: QueueState
    sealed: Sealed


def by_database(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Return samples by the alias of the database to which their partitions are drained.

    Nothing is drained to a database that is not Postgres.
    """
    databases: dict[str, list[Sample]] = {}
    for sample in samples:
        model = model_named(sample.partition.label)
        if model is None or not sample.sealed.seal:
            continue
        using = router.db_for_write(model)
        if engine_fault(model, using) is None:
            databases.setdefault(using, []).append(sample)
    return databases


def store_samples(client: QueueClient, using: str, samples: Iterable[Sample]) -> None:
    """Store samples of queues in their checkpoints.

    A checkpoint that is locked is left out: its queue is being drained, up to the sealed batch. So is
    one that its queue contradicts: it keeps what the queue had, until the partition is repaired.

    A queue that was ended and has a sealed batch that is not drained is in use again: its partition has
    returned to its node.

    Raises:
        django.db.Error: The database failed.
    """
    unstored = _store_unlocked(using, samples)
    if not unstored:
        return
    own = WriteBehindCheckpoint.objects.using(using).filter(incarnation__in=unstored)
    locked = set(own.values_list("incarnation", flat=True))
    new = [sample for incarnation, sample in unstored.items() if incarnation not in locked]
    for sample in new:
        _create(client, using, sample.partition, sample.state)
    _store_unlocked(using, new)


def _store_unlocked(using: str, samples: Iterable[Sample]) -> dict[str, Sample]:
    """Store the samples whose checkpoints exist and are not locked; return the others by incarnation."""
    left = {sample.state.incarnation: sample for sample in samples}
    checkpoints = WriteBehindCheckpoint.objects.using(using)
    with transaction.atomic(using=using):
        own = checkpoints.filter(incarnation__in=left).select_for_update(skip_locked=True).order_by("pk")
        unlocked = list(own)
        for checkpoint in unlocked:
            _store(checkpoint, left.pop(checkpoint.incarnation))
        if unlocked:
            _save(using, unlocked)
    return left


def _save(using: str, checkpoints: Sequence[WriteBehindCheckpoint]) -> None:
    """Save what samples have changed. Django's ``bulk_update`` takes several times longer."""
    connection = connections[using]
    table = connection.ops.quote_name(WriteBehindCheckpoint._meta.db_table)
    key, *names = _COLUMNS
    sets = ", ".join(f"{name} = s.{name}" for name in names)
    arrays = ", ".join(f"%s::{type_}[]" for type_ in _COLUMNS.values())
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} AS c SET {sets} FROM unnest({arrays}) AS s({', '.join(_COLUMNS)}) "
            f"WHERE c.{key} = s.{key}",
            [[getattr(checkpoint, name) for checkpoint in checkpoints] for name in _COLUMNS],
        )


def _store(checkpoint: WriteBehindCheckpoint, sample: Sample) -> None:
    """Set a queue's sample in its checkpoint, unless that has a later one or contradicts it."""
    _, state, sealed = sample
    number = state.done + 1  # a drain may have deleted that batch since, and `done` may be higher
    seals = {state.done: sealed.previous_seal, number: sealed.seal}
    is_latest = number >= checkpoint.sampled_batch  # else another tick was later
    if is_latest and mismatch_of(checkpoint, sealed.open_batch, sealed.done, seals) is None:
        checkpoint.sampled_open = max(checkpoint.sampled_open, sealed.open_batch)
        checkpoint.sampled_batch, checkpoint.sampled_seal = number, sealed.seal
        checkpoint.sampled_at = timezone.now()
        # The batch may be drained since, and the queue be ended after it
        checkpoint.is_ended = checkpoint.is_ended and number <= checkpoint.batch


def _create(client: QueueClient, using: str, partition: Partition, state: QueueState) -> None:
    """Create the checkpoint of a queue that was never drained, unless the partition has stopped."""
    try:
        with transaction.atomic(using=using):
            Queues(client, partition).lock_checkpoint(state, using)
    except RingCacheError:  # the drain reports it
        return
