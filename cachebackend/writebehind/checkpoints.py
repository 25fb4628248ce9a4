"""The queues of a partition compared with their checkpoints in the database."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from django.db import models, router

from cachebackend import protocol
from cachebackend.client.queue import QueueClient
from cachebackend.errors import (
    NodeUnavailableError,
    RingCacheError,
    WriteBehindDatabaseError,
    WriteBehindStoppedError,
)
from cachebackend.invalidation.outbox import READ_TIMEOUT
from cachebackend.invalidation.outbox_databases import ask_databases
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol.queue import Partition, Pending, QueueState
from cachebackend.protocol.queue.encodings import Encodings
from cachebackend.protocol.queue.sealing import Sealed
from cachebackend.writebehind.checkpoint_rows import lock_row
from cachebackend.writebehind.queue import behind_models, model_named, model_of

__all__ = [
    "WAY_OUT",
    "Mismatch",
    "Position",
    "Queues",
    "mismatch_of",
    "require_database",
    "require_match",
    "require_readable",
    "stored_checkpoints",
]

#: What a person does about a partition that stopped.
WAY_OUT = "`manage.py writebehind repair` shows the difference"
logger = logging.getLogger("cachebackend")


class Mismatch(StrEnum):
    """How a partition's queue and its checkpoint contradict each other."""

    QUEUE_IS_OLDER = "the queue node came back with an older file"
    QUEUE_IS_GONE = "the queue node was emptied or replaced"
    DATABASE_IS_OLDER = "the database came back with an older state, or was emptied"
    BATCH_IS_MISSING = "the queue node lost a sealed batch"


class Position(NamedTuple):
    """How far a queue is drained, as a reader sees it in the snapshot that it reads rows from.

    Attributes:
        batch: The number of the last drained batch; 0: none yet.
        seal: Its seal.
        is_ended: Whether the queue was given up or has moved to another node.
        sampled_open: The number of the open batch when the queue was last sampled; 0: never.
        sampled_batch: The number of a batch that was sealed then.
        sampled_seal: Its seal.
    """

    batch: int = 0
    seal: str = ""
    is_ended: bool = False
    sampled_open: int = 0
    sampled_batch: int = 0
    sampled_seal: str = ""

    @classmethod
    def parse(cls, values: Sequence[str]) -> Position:
        """Return the position that a checkpoint's columns, as Postgres' text, say."""
        batch, seal, is_ended, sampled_open, sampled_batch, sampled_seal = values
        numbers = int(sampled_open), int(sampled_batch)
        return cls(int(batch), seal, is_ended == "t", *numbers, sampled_seal)


class Queues:
    """The queues of a partition: one on its owner, and one on each node that owned it before.

    Args:
        client: The project's queue.
        partition: The partition.
    """

    def __init__(self, client: QueueClient, partition: Partition) -> None:
        self._client = client
        self._partition = partition
        self._states = client.run(protocol.queue.queue_states(client.context, [partition], count_open=False))[
            partition
        ]

    def in_order(self) -> list[QueueState]:
        """Return the queues in the order in which they are drained: the owner's last.

        Raises:
            NodeUnavailableError: A node that may hold writes to drain first does not answer.
        """
        owner = self._client.context.ring.owner(self._partition.name)
        required = self._client.context.required_nodes(self._partition)
        order = sorted(self._states, key=lambda node: node == owner)
        for node in order:
            if isinstance(error := self._states[node], RingCacheError) and node in required:
                raise error
        return [state for node in order if isinstance(state := self._states[node], QueueState)]

    def lock_checkpoint(self, state: QueueState, using: str) -> WriteBehindCheckpoint | None:
        """Return the checkpoint of a queue, locked; None if another worker holds the lock.

        Raises:
            NodeUnavailableError: A queue that is not ended may be on a node that does not answer.
            WriteBehindStoppedError: The queue is new, and a queue with a checkpoint is gone.
        """
        for is_created in (False, True):
            if (checkpoint := lock_row(self._partition, state.incarnation, using)) is not None:
                self._require_seen(using)
                return checkpoint
            checkpoints = self._checkpoints(using)
            if is_created or checkpoints.filter(incarnation=state.incarnation).exists():
                return None
            self._accept(state, list(checkpoints.filter(is_ended=False)))
            new = WriteBehindCheckpoint(
                label=self._partition.label, partition=self._partition.number, incarnation=state.incarnation
            )
            WriteBehindCheckpoint.objects.using(using).bulk_create([new], ignore_conflicts=True)
        return None

    def _checkpoints(self, using: str) -> models.QuerySet[WriteBehindCheckpoint]:
        return WriteBehindCheckpoint.objects.using(using).filter(
            label=self._partition.label, partition=self._partition.number
        )

    def _require_seen(self, using: str) -> None:
        """Raise if a queue that is not ended may be on a node that does not answer: it is drained first."""
        for error in self._states.values():
            if isinstance(error, NodeUnavailableError):
                seen = {queue.incarnation for queue in self._states.values() if isinstance(queue, QueueState)}
                not_ended = self._checkpoints(using).filter(is_ended=False)
                if not_ended.exclude(incarnation__in=seen).exists():
                    raise error
                return

    def _accept(self, state: QueueState, checkpoints: list[WriteBehindCheckpoint]) -> None:
        """Accept a queue without a checkpoint, if the queue of every other checkpoint still exists."""
        existing = {queue.incarnation for queue in self._states.values() if isinstance(queue, QueueState)}
        gone = [checkpoint for checkpoint in checkpoints if checkpoint.incarnation not in existing]
        if not gone:
            return
        for error in self._states.values():
            if isinstance(error, RingCacheError):
                raise error
        if self._client.options.durability == "memory":
            logger.warning(
                "the queue of %s was emptied; write-behind continues with a new queue", self._partition
            )
            for checkpoint in gone:
                checkpoint.is_ended = True
                checkpoint.save(update_fields=["is_ended"])
            return
        name = self._client.nodes[state.node].name
        message = (
            f"the queue of {self._partition} on node {name!r} is not the one whose batch {gone[0].batch} was "
            "drained: the node was emptied or replaced; if it was replaced, name the old node in "
            f"WRITE_BEHIND['retiring']; else {WAY_OUT}"
        )
        raise WriteBehindStoppedError(message)


def stored_checkpoints() -> tuple[dict[Partition, list[WriteBehindCheckpoint]], dict[str, Exception]]:
    """Return all checkpoints by partition, each from the database to which its model is drained.

    Returns:
        The checkpoints of the databases that answered, and for each alias of another one its error.
    """
    by_partition: dict[Partition, list[WriteBehindCheckpoint]] = {}
    used = sorted({router.db_for_write(model) for model in behind_models()})
    asked = ask_databases(
        lambda using: list(WriteBehindCheckpoint.objects.using(using).order_by("pk")), READ_TIMEOUT, used
    )
    for using, stored in asked.found.items():
        for checkpoint in stored:
            if (model := model_named(checkpoint.label)) is None or router.db_for_write(model) == using:
                partition = Partition(checkpoint.label, checkpoint.partition)
                by_partition.setdefault(partition, []).append(checkpoint)
    return by_partition, asked.errors


def mismatch_of(
    checkpoint: WriteBehindCheckpoint | Position, open_batch: int, done: int, seals: Mapping[int, str]
) -> Mismatch | None:
    """Return how a queue and its checkpoint contradict each other; None if they agree.

    A queue that came back with an older file reaches the same numbers again, but not with the same
    seals. The checkpoint has the seal of the last drained batch, and that of a batch which was
    sealed when the queue was last sampled.

    Args:
        checkpoint: The checkpoint of the queue.
        open_batch: The number of the queue's open batch.
        done: The number of the last batch that the queue deleted.
        seals: The queue's seals by batch number; those of the checkpoint's batch and of the next
            one are among them, if the queue has them.
    """
    if done > checkpoint.batch:
        return Mismatch.DATABASE_IS_OLDER
    if open_batch <= checkpoint.batch or open_batch < checkpoint.sampled_open:
        return Mismatch.QUEUE_IS_OLDER
    if checkpoint.batch and seals.get(checkpoint.batch, "") != checkpoint.seal:
        return Mismatch.QUEUE_IS_OLDER
    sampled = checkpoint.sampled_batch
    if sampled > checkpoint.batch and seals.get(sampled, checkpoint.sampled_seal) != checkpoint.sampled_seal:
        return Mismatch.QUEUE_IS_OLDER
    return None


def require_match(checkpoint: WriteBehindCheckpoint, sealed: Sealed) -> None:
    """Raise if the queue or the database came back with an older state.

    Args:
        checkpoint: The checkpoint of the queue.
        sealed: The queue's state after the request to seal the batch after the checkpoint.

    Raises:
        WriteBehindStoppedError: The queue and the checkpoint contradict each other.
    """
    seals = {checkpoint.batch: sealed.previous_seal, checkpoint.batch + 1: sealed.seal}
    mismatch = mismatch_of(checkpoint, sealed.open_batch, sealed.done, seals)
    if mismatch is not None:
        partition = Partition(checkpoint.label, checkpoint.partition)
        raise _stopped(partition, mismatch, checkpoint.batch, sealed.open_batch, sealed.done)


def require_readable(
    client: QueueClient, partition: Partition, positions: Mapping[str, Position], queues: Sequence[Pending]
) -> None:
    """Raise if the drains of a partition have stopped, so that its rows cannot be merged exactly.

    Args:
        client: The project's queue.
        partition: The partition.
        positions: How far each queue is drained, by incarnation.
        queues: The queues, read after ``positions``. A queue may be further than its position says.

    Raises:
        WriteBehindStoppedError: A queue and its position contradict each other, or a queue is gone.
        WriteBehindDatabaseError: A batch belongs to another database.
        NodeUnavailableError: A node that may hold the queue that is missing does not answer.
    """
    using = _database_of(partition)
    for queue in queues:
        for batch in queue.batches:
            if batch.fields:
                require_database(partition, batch.number, batch.encodings, using)
        position = positions.get(queue.incarnation, Position())
        mismatch = mismatch_of(position, queue.open_batch, queue.done, queue.seals)
        if mismatch is Mismatch.QUEUE_IS_OLDER:
            raise _stopped(partition, mismatch, position.batch, queue.open_batch, queue.done)
    read = {queue.incarnation for queue in queues}
    unread = {name for name, position in positions.items() if not position.is_ended} - read
    if unread and client.options.durability != "memory":
        _require_empty(client, partition, unread)


def require_database(partition: Partition, number: int, encodings: Encodings, using: str) -> None:
    """Raise if a batch belongs to another database than the one that this process reads or writes.

    Raises:
        WriteBehindDatabaseError: The routers of the writers send its rows to another database.
    """
    if others := sorted(encodings.databases - {using}):
        message = (
            f"batch {number} of {partition} was written for the database {others[0]!r}, and the routers of "
            f"this process send the rows of {partition.label} to {using!r}; let them send a model's rows to "
            "one database in all processes, or save the rows of several databases with the ORM"
        )
        raise WriteBehindDatabaseError(message)


def _database_of(partition: Partition) -> str:
    return router.db_for_write(model_of(partition))


def _require_empty(client: QueueClient, partition: Partition, unread: Collection[str]) -> None:
    """Raise unless some queues of a partition are on nodes that readers do not read, and are empty."""
    states = client.run(protocol.queue.queue_states(client.context, [partition]))[partition]
    for error in states.values():
        if isinstance(error, RingCacheError):
            raise error
    queues = {queue.incarnation: queue for queue in states.values() if isinstance(queue, QueueState)}
    for incarnation in unread:
        if incarnation not in queues:
            message = f"a queue of {partition} is gone: {Mismatch.QUEUE_IS_GONE}; {WAY_OUT}"
            raise WriteBehindStoppedError(message)
        if queues[incarnation].fields:
            name = client.options.all_nodes[queues[incarnation].node].name
            message = (
                f"node {name!r} holds writes of {partition}, but is neither its owner nor retiring; name it "
                "in WRITE_BEHIND['retiring']"
            )
            raise WriteBehindStoppedError(message)


def _stopped(
    partition: Partition, mismatch: Mismatch, batch: int, open_batch: int, done: int
) -> WriteBehindStoppedError:
    return WriteBehindStoppedError(
        f"the queue of {partition} has batch {open_batch} open and has deleted batch {done}, but the last "
        f"drained batch is {batch}: {mismatch}; {WAY_OUT}"
    )
