"""A drain lands a partition's batches, each in one transaction with its number.

    1. lock the partition's checkpoint row, or leave it to the worker that has it;
    2. take the batch after the checkpoint, sealing it first if it is still open;
    3. read it, apply it, set the checkpoint to its number;
    4. commit: the batch has landed if and only if its number stands;
    5. delete its hash and set ``done``.

Killed before 4, nothing happened and the batch is taken again. Killed between 4 and 5,
the number says that it landed, and the next drain begins by deleting what is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.apps import apps
from django.db import connections, models, router, transaction
from django.utils import timezone

from cachebackend import protocol
from cachebackend.client import QueueClient
from cachebackend.errors import WriteBehindError
from cachebackend.invalidation import invalidate_rows
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol import Partition
from cachebackend.writebehind.apply import apply_batch
from cachebackend.writebehind.queue import project_queue

__all__ = ["Drained", "dirty_partitions", "drain"]


@dataclass(slots=True)
class Drained:
    """What a drain did.

    Attributes:
        batches: How many batches landed.
        rows: How many rows they changed.
        missing: How many rows they named that were not there.
        more: True if writes wait that it did not come to.
    """

    batches: int = 0
    rows: int = 0
    missing: int = 0
    more: bool = False


def dirty_partitions() -> list[tuple[Partition, float]]:
    """Return the partitions that hold writes, and when each one's oldest came (seconds since 1970)."""
    client = project_queue()
    return client.run(protocol.dirty(client.context))


def drain(partition: Partition, most_batches: int = 100) -> Drained:
    """Land what stands in a partition; may run anywhere, any number at once.

    Args:
        partition: The partition.
        most_batches: After so many it stops, so that no task is endless.

    Raises:
        WriteBehindError: The queue is behind the checkpoint (it was restored from an older
            file, or emptied), or its model is unknown here. Nothing was written.
        NodeUnavailableError: The queue node did not answer. What had landed stays so.
    """
    client = project_queue()
    model = _model(partition)
    drained = Drained()
    for _ in range(most_batches):
        landed = _land_next(client, partition, model, drained)
        if landed is None:
            return drained
        drained.more = client.run(protocol.close(client.context, partition, landed))
        if not drained.more:
            return drained
    return drained


def _land_next(
    client: QueueClient, partition: Partition, model: type[models.Model], drained: Drained
) -> int | None:
    """Land the batch after the checkpoint and return its number; None if there is none for us."""
    using = router.db_for_write(model)
    # durable: the hash is deleted after this commit, which must be the last word
    with transaction.atomic(using=using, durable=True):
        checkpoint = _lock_checkpoint(partition, using)
        if checkpoint is None:
            return None
        number = checkpoint.batch + 1
        opened, done = client.run(protocol.seal(client.context, partition, number))
        if opened < number:
            message = (
                f"the queue of {partition.label}:{partition.number} has batch {opened} open, but batch "
                f"{checkpoint.batch} has landed: the queue node was emptied or restored from an older file"
            )
            raise WriteBehindError(message)
        if done < checkpoint.batch:
            client.run(protocol.close(client.context, partition, checkpoint.batch))
        if opened == number:
            return None
        batch = client.run(protocol.contents(client.context, partition, number))
        if not batch:
            message = (
                f"batch {number} of {partition.label}:{partition.number} is sealed but gone from its node"
            )
            raise WriteBehindError(message)
        applied = apply_batch(model, using, batch, client.options.batch_rows)
        invalidate_rows(model, [{"pk": key} for key in applied.keys], using)
        checkpoint.batch = number
        checkpoint.landed_at = timezone.now()
        checkpoint.rows += len(applied.keys)
        checkpoint.missing += applied.missing
        checkpoint.save(using=using, update_fields=["batch", "landed_at", "rows", "missing"])
    drained.batches += 1
    drained.rows += len(applied.keys)
    drained.missing += applied.missing
    return number


def _lock_checkpoint(partition: Partition, using: str) -> WriteBehindCheckpoint | None:
    """Return the partition's checkpoint, locked; None if another worker has it."""
    checkpoints = WriteBehindCheckpoint.objects.using(using)
    mine = checkpoints.filter(label=partition.label, partition=partition.number)
    locked = mine.select_for_update(skip_locked=connections[using].features.has_select_for_update_skip_locked)
    for _ in _twice():
        if (checkpoint := locked.first()) is not None:
            return checkpoint
        if mine.exists():
            return None
        new = WriteBehindCheckpoint(label=partition.label, partition=partition.number)
        checkpoints.bulk_create([new], ignore_conflicts=True)
    return None


def _twice() -> Iterator[int]:
    """The second time, the checkpoint that was not there is."""
    return iter(range(2))


def _model(partition: Partition) -> type[models.Model]:
    try:
        return apps.get_model(partition.label)
    except (LookupError, ValueError):
        message = f"the queue holds writes of {partition.label!r}, which is no model of this project"
        raise WriteBehindError(message) from None
