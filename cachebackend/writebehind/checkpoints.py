"""Where a partition's queues stand, and whether they are those that the checkpoints know."""

from __future__ import annotations

import logging
from enum import StrEnum

from django.db import connections

from cachebackend import protocol
from cachebackend.client import QueueClient
from cachebackend.errors import RingCacheError, WriteBehindStoppedError
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol import Partition, Place
from cachebackend.protocol.queue.seal import Sealed

__all__ = ["Queues", "Trouble", "refuse_other_times", "trouble_of"]

logger = logging.getLogger("cachebackend")


class Trouble(StrEnum):
    """What is wrong with a partition."""

    QUEUE_IS_OLDER = "the queue node came back with an older file"
    QUEUE_IS_GONE = "the node was emptied, or is another"
    DATABASE_IS_OLDER = "the database came back with an older state"


class Queues:
    """The queues of a partition: one on its owner, and one on each node that held it before.

    Args:
        client: The project's queue.
        partition: The partition.
    """

    def __init__(self, client: QueueClient, partition: Partition) -> None:
        self._client = client
        self._partition = partition
        self._found = client.run(protocol.places(client.context, [partition]))[partition]

    def in_order(self) -> list[Place]:
        """Return the queues in the order in which they land: the owner's last.

        Raises:
            NodeUnavailableError: One that must land before others cannot be seen.
        """
        owner = self._client.context.ring.owner(self._partition.name)
        awaited = set(self._client.context.places(self._partition))
        order = sorted(self._found, key=lambda node: node == owner)
        for node in order:
            if isinstance(error := self._found[node], RingCacheError) and node in awaited:
                raise error
        return [place for node in order if isinstance(place := self._found[node], Place)]

    def lock_checkpoint(self, place: Place, using: str) -> WriteBehindCheckpoint | None:
        """Return the checkpoint of a queue, locked; None if another worker has it.

        Raises:
            WriteBehindStoppedError: The queue is new, and one that was before is gone.
        """
        every = WriteBehindCheckpoint.objects.using(using).filter(
            label=self._partition.label, partition=self._partition.number
        )
        mine = every.filter(incarnation=place.born)
        skip_locked = connections[using].features.has_select_for_update_skip_locked
        for is_made in (False, True):
            if (checkpoint := mine.select_for_update(skip_locked=skip_locked).first()) is not None:
                return checkpoint
            if is_made or mine.exists():
                return None
            self._accept(place, list(every.filter(is_ended=False)))
            new = WriteBehindCheckpoint(
                label=self._partition.label, partition=self._partition.number, incarnation=place.born
            )
            WriteBehindCheckpoint.objects.using(using).bulk_create([new], ignore_conflicts=True)
        return None

    def _accept(self, place: Place, others: list[WriteBehindCheckpoint]) -> None:
        """Let a queue in that was never seen, if all that were are accounted for."""
        standing = {other.born for other in self._found.values() if isinstance(other, Place)}
        gone = [other for other in others if other.incarnation not in standing]
        if not gone:
            return
        for error in self._found.values():
            if isinstance(error, RingCacheError):
                raise error
        if self._client.options.durability == "memory":
            logger.warning(
                "the queue of %s was emptied; write-behind goes on with a new one", self._partition
            )
            for other in gone:
                other.is_ended = True
                other.save(update_fields=["is_ended"])
            return
        name = self._client.options.all_nodes[place.node].name
        message = (
            f"the queue of {self._partition} on node {name!r} is not the one whose batch {gone[0].batch} has "
            "landed: the node was emptied, or is another; `manage.py writebehind repair` shows what differs"
        )
        raise WriteBehindStoppedError(message)


def trouble_of(checkpoint: WriteBehindCheckpoint, opened: int, done: int, seal: str) -> Trouble | None:
    """Return what is wrong between a queue and its checkpoint; None if they fit.

    Args:
        checkpoint: What has landed.
        opened: The number of the queue's open batch.
        done: The last batch that the queue dropped.
        seal: The seal that the queue has of the checkpoint's batch. A queue that came back
            with an older file comes to that number again, but not to that seal.
    """
    if done > checkpoint.batch:
        return Trouble.DATABASE_IS_OLDER
    if opened <= checkpoint.batch or (checkpoint.batch and seal != checkpoint.seal):
        return Trouble.QUEUE_IS_OLDER
    return None


def refuse_other_times(checkpoint: WriteBehindCheckpoint, sealed: Sealed) -> None:
    """Stop at a queue or a database that is not where the other left it.

    Args:
        checkpoint: What has landed.
        sealed: How the queue stands, asked for the batch after it.

    Raises:
        WriteBehindStoppedError: Either came back with an older state.
    """
    trouble = trouble_of(checkpoint, sealed.opened, sealed.done, sealed.before)
    if trouble is not None:
        message = (
            f"the queue of {checkpoint.label}:{checkpoint.partition} has batch {sealed.opened} open and "
            f"dropped {sealed.done}, which does not fit batch {checkpoint.batch}, the last that has landed: "
            f"{trouble}; `manage.py writebehind repair` shows what differs"
        )
        raise WriteBehindStoppedError(message)
