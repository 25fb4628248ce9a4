"""Repair of partitions that stopped because the queue or the database came back with an older state.

Neither side can see what the other lost, so a person decides. If the queue is older, its batches
are kept or deleted: when they are kept, writes that were drained before count twice; when they are
deleted, writes that were not drained are lost. If the database is older, the queued batches are
newer than everything in it, and they are drained.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db import router, transaction

from cachebackend import protocol
from cachebackend.errors import RingCacheError, WriteBehindError
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol import Partition, QueueState
from cachebackend.writebehind.checkpoints import Mismatch, mismatch_of
from cachebackend.writebehind.queue import behind_models, model_of, project_queue

__all__ = ["Fault", "Mismatch", "find_faults", "repair"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A partition that stopped.

    Attributes:
        partition: The partition.
        mismatch: How the queue and the checkpoint contradict each other.
        drained_batch: The number of the last drained batch, as the database has it.
        state: The queue's state; None if there is no queue.
        queued_batches: The numbers of the batches that exist in the queue.
        incarnation: The incarnation of the checkpoint's queue.
    """

    partition: Partition
    mismatch: Mismatch
    drained_batch: int
    state: QueueState | None
    queued_batches: tuple[int, ...]
    incarnation: str


def find_faults() -> list[Fault]:
    """Return the partitions whose queue and checkpoint contradict each other, in all databases.

    Raises:
        NodeUnavailableError: A queue node did not answer, so its queues are unknown.
    """
    client = project_queue()
    faults: list[Fault] = []
    for partition, checkpoints in _checkpoints().items():
        existing: dict[str, QueueState] = {}
        for queue in client.run(protocol.queue_states(client.context, [partition]))[partition].values():
            if isinstance(queue, RingCacheError):
                raise queue
            existing[queue.incarnation] = queue
        for checkpoint in checkpoints:
            state = existing.get(checkpoint.incarnation)
            mismatch = _mismatch(checkpoint, state)
            if mismatch is not None and _is_current(checkpoint):
                batches = _queued_batches(partition, state) if state else ()
                faults.append(
                    Fault(partition, mismatch, checkpoint.batch, state, batches, checkpoint.incarnation)
                )
    return faults


def repair(fault: Fault, *, keep: bool) -> None:
    """Make a stopped partition drain again.

    Args:
        fault: The fault, as ``find_faults`` returned it.
        keep: Whether the queued batches are kept, so that they are drained. Otherwise they are
            deleted. A queue that is gone has none.

    Raises:
        WriteBehindError: The queue has changed since ``find_faults``; call it again. Or the
            database is older and ``keep`` is False.
        NodeUnavailableError: The queue node did not answer.
    """
    if fault.mismatch is Mismatch.DATABASE_IS_OLDER and not keep:
        message = (
            f"the queued writes of {fault.partition} were never drained, and only the database came back "
            "with an older state; keep them"
        )
        raise WriteBehindError(message)
    client = project_queue()
    using = router.db_for_write(model_of(fault.partition))
    with transaction.atomic(using=using):
        checkpoint = (
            WriteBehindCheckpoint.objects.using(using)
            .select_for_update()
            .get(
                label=fault.partition.label,
                partition=fault.partition.number,
                incarnation=fault.incarnation,
            )
        )
        if fault.state is None:
            checkpoint.is_ended = True
        elif fault.mismatch is Mismatch.DATABASE_IS_OLDER:
            checkpoint.batch = fault.state.done
            checkpoint.seal = fault.state.seals[fault.state.done]
        elif not client.run(
            protocol.renumber(
                client.context,
                fault.state,
                fault.partition,
                (checkpoint.batch, checkpoint.seal),
                fault.queued_batches,
                keep=keep,
            )
        ):
            message = f"the queue of {fault.partition} has changed since it was inspected; run repair again"
            raise WriteBehindError(message)
        checkpoint.save(update_fields=["batch", "seal", "is_ended"])


def _checkpoints() -> dict[Partition, list[WriteBehindCheckpoint]]:
    by_partition: dict[Partition, list[WriteBehindCheckpoint]] = {}
    for using in sorted({router.db_for_write(model) for model in behind_models()}):
        for checkpoint in WriteBehindCheckpoint.objects.using(using).filter(is_ended=False).order_by("pk"):
            by_partition.setdefault(Partition(checkpoint.label, checkpoint.partition), []).append(checkpoint)
    return by_partition


def _mismatch(checkpoint: WriteBehindCheckpoint, state: QueueState | None) -> Mismatch | None:
    if state is None:
        return Mismatch.QUEUE_IS_GONE
    return mismatch_of(checkpoint, state.open_batch, state.done, state.seals.get(checkpoint.batch, ""))


def _is_current(checkpoint: WriteBehindCheckpoint) -> bool:
    """Return whether no batch was drained since a checkpoint was read, so queue and checkpoint compare."""
    now = WriteBehindCheckpoint.objects.using(checkpoint._state.db).filter(pk=checkpoint.pk)
    return now.filter(batch=checkpoint.batch, is_ended=False).exists()


def _queued_batches(partition: Partition, state: QueueState) -> tuple[int, ...]:
    client = project_queue()
    numbers = range(state.done + 1, state.open_batch + 1)
    return tuple(
        number
        for number in numbers
        if client.run(protocol.contents(client.context, state.node, partition, number))
    )
