"""Queues that stopped because they, or the database, came back with an older state.

Neither side can tell what the other lost, so a person decides. A queue that is older: what
stands in it is landed, and what had landed of it before counts twice, or is dropped, and what
had not is lost. A database that is older: what stands is newer than all that it has, and lands.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db import router, transaction

from cachebackend import protocol
from cachebackend.errors import RingCacheError, WriteBehindError
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol import Partition, Place
from cachebackend.writebehind.checkpoints import Trouble, trouble_of
from cachebackend.writebehind.queue import behind_models, model_of, project_queue

__all__ = ["Fault", "Trouble", "find_faults", "repair"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a partition stopped.

    Attributes:
        partition: The partition.
        trouble: What is wrong.
        landed: The last batch that landed, by the database.
        place: The queue as it stands; None if there is none.
        standing: The numbers of the batches that stand in it.
        incarnation: The queue that the checkpoint is of.
    """

    partition: Partition
    trouble: Trouble
    landed: int
    place: Place | None
    standing: tuple[int, ...]
    incarnation: str


def find_faults() -> list[Fault]:
    """Return the partitions whose queue and checkpoint do not fit, of all databases that have landed any.

    Raises:
        NodeUnavailableError: A queue node did not answer: what it holds is not known.
    """
    client = project_queue()
    found: list[Fault] = []
    for partition, checkpoints in _checkpoints().items():
        standing: dict[str, Place] = {}
        for queue in client.run(protocol.places(client.context, [partition]))[partition].values():
            if isinstance(queue, RingCacheError):
                raise queue
            standing[queue.born] = queue
        for checkpoint in checkpoints:
            place = standing.get(checkpoint.incarnation)
            trouble = _trouble(checkpoint, place)
            if trouble is not None and _stands(checkpoint):
                batches = _standing(partition, place) if place else ()
                found.append(
                    Fault(partition, trouble, checkpoint.batch, place, batches, checkpoint.incarnation)
                )
    return found


def repair(fault: Fault, *, keep: bool) -> None:
    """Let a partition go on.

    Args:
        fault: What was found.
        keep: Whether what stands in the queue is to land, or to be dropped. Of a queue that
            is gone nothing stands.

    Raises:
        WriteBehindError: The queue has changed since; look again. Or what stands was to be
            dropped for a database that is older.
        NodeUnavailableError: Its node did not answer.
    """
    if fault.trouble is Trouble.DATABASE_IS_OLDER and not keep:
        message = (
            f"what stands in the queue of {fault.partition} has never landed, and is not to blame for a "
            "database that came back with an older state; keep it"
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
        if fault.place is None:
            checkpoint.is_ended = True
        elif fault.trouble is Trouble.DATABASE_IS_OLDER:
            checkpoint.batch = fault.place.done
            checkpoint.seal = fault.place.seals[fault.place.done]
        elif not client.run(
            protocol.renumber(
                client.context,
                fault.place,
                fault.partition,
                (checkpoint.batch, checkpoint.seal),
                fault.standing,
                keep=keep,
            )
        ):
            message = f"the queue of {fault.partition} has changed since it was looked at; look again"
            raise WriteBehindError(message)
        checkpoint.save(update_fields=["batch", "seal", "is_ended"])


def _checkpoints() -> dict[Partition, list[WriteBehindCheckpoint]]:
    found: dict[Partition, list[WriteBehindCheckpoint]] = {}
    for using in sorted({router.db_for_write(model) for model in behind_models()}):
        for checkpoint in WriteBehindCheckpoint.objects.using(using).filter(is_ended=False).order_by("pk"):
            found.setdefault(Partition(checkpoint.label, checkpoint.partition), []).append(checkpoint)
    return found


def _trouble(checkpoint: WriteBehindCheckpoint, place: Place | None) -> Trouble | None:
    if place is None:
        return Trouble.QUEUE_IS_GONE
    return trouble_of(checkpoint, place.opened, place.done, place.seals.get(checkpoint.batch, ""))


def _stands(checkpoint: WriteBehindCheckpoint) -> bool:
    """Return whether no batch has landed since a checkpoint was read: then the queue was read beside it."""
    now = WriteBehindCheckpoint.objects.using(checkpoint._state.db).filter(pk=checkpoint.pk)
    return now.filter(batch=checkpoint.batch, is_ended=False).exists()


def _standing(partition: Partition, place: Place) -> tuple[int, ...]:
    client = project_queue()
    numbers = range(place.done + 1, place.opened + 1)
    return tuple(
        number
        for number in numbers
        if client.run(protocol.contents(client.context, place.node, partition, number))
    )
