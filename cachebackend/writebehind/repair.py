"""Repair of partitions that stopped because the queue or the database came back with an older state.

Neither side can see what the other lost, so a person decides. If the queue is older, its batches
are kept or given up: when they are kept, writes that were drained before count twice; when they
are given up, writes that were not drained are lost. If the database is older or was emptied, the
queued batches are newer than everything in it, and they are drained.

A repair changes only the checkpoint, in one transaction that holds the lock of the drains:

    1. a person looks: the open batch is sealed, so what was seen never changes;
    2. new writes are queued in the batches after those that were seen;
    3. the person answers: the checkpoint is set to the last deleted batch (keep), or to the last
       batch that was seen (drop), with the queue's seal;
    4. the next drain deletes what the checkpoint covers, and applies the rest, step 2 included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from django.db import router, transaction

from cachebackend import protocol
from cachebackend.client.queue import QueueClient
from cachebackend.errors import NodeUnavailableError, RingCacheError, WriteBehindError
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol.queue import Partition, QueueState
from cachebackend.writebehind.answers import Answers
from cachebackend.writebehind.checkpoints import Mismatch, mismatch_of, stored_checkpoints
from cachebackend.writebehind.queue import configured_partitions, model_named, model_of, project_queue

__all__ = ["Fault", "Mismatch", "find_faults", "repair"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A partition that stopped.

    Attributes:
        partition: The partition.
        mismatch: How the queue and the checkpoint contradict each other.
        drained_batch: The number of the last drained batch, as the database has it.
        state: The queue's state; None if there is no queue.
        queued_batches: The numbers of the sealed batches that exist in the queue.
        incarnation: The incarnation of the checkpoint's queue.
        using: The alias of the database that has, or had, the checkpoint.
        agreed_at: When queue and checkpoint were last known to agree, in seconds since 1970: the last batch
            was drained, or the queue was sampled; None if that is not known.
    """

    partition: Partition
    mismatch: Mismatch
    drained_batch: int
    state: QueueState | None
    queued_batches: tuple[int, ...]
    incarnation: str
    using: str
    agreed_at: float | None = None


def find_faults(*, seal: bool = False) -> Answers[Fault]:
    """Return the partitions whose queue and checkpoint contradict each other, in all databases.

    Args:
        seal: Whether to seal what the queues hold now, so that an answer to ``repair`` is about
            what this call returns and nothing else.

    Returns:
        The faults of the partitions whose database answers, in the queues of the nodes that answer. A queue
        may be on a node that does not, so then none is taken for gone.

    Raises:
        NodeReplyError, WriteBehindDamagedError: A queue cannot be read.
    """
    client = project_queue()
    checkpoints, errors = stored_checkpoints()
    partitions = list(dict.fromkeys([*checkpoints, *configured_partitions(client)]))
    # Read after the checkpoints: a queue may be further than its checkpoint then, but not behind it
    states, unanswered = _answered_states(client, partitions)
    faults: Answers[Fault] = Answers(errors={f"database {using!r}": error for using, error in errors.items()})
    faults.errors |= unanswered
    for partition, queues in states.items():
        own = checkpoints.get(partition, [])
        model = model_named(partition.label)
        if model is not None and router.db_for_write(model) in errors:
            continue
        for incarnation, mismatch, batch in _mismatches(client, partition, own, queues):
            if unanswered and mismatch is Mismatch.QUEUE_IS_GONE:
                continue
            using = _database_of(partition, own)
            if not _is_current(using, partition, incarnation, batch):
                continue
            state = queues.get(incarnation)
            if seal and state is not None:
                client.run(protocol.queue.seal(client.context, state, partition, state.open_batch))
                state = _states(client, [partition])[partition][incarnation]
            batches = tuple(
                number for number, size in _sealed_sizes(client, partition, state).items() if size
            )
            agreed_at = _agreed_at(own, incarnation)
            faults.append(Fault(partition, mismatch, batch, state, batches, incarnation, using, agreed_at))
    return faults


def _agreed_at(checkpoints: Sequence[WriteBehindCheckpoint], incarnation: str) -> float | None:
    own = [each for each in checkpoints if each.incarnation == incarnation]
    times = [at.timestamp() for each in own for at in (each.landed_at, each.sampled_at) if at is not None]
    return max(times, default=None)


def repair(fault: Fault, *, keep: bool) -> None:
    """Make a stopped partition drain again.

    Args:
        fault: The fault, as ``find_faults`` returned it.
        keep: Whether the batches in ``queued_batches`` are kept, so that they are drained.
            Otherwise they are deleted. Writes that are queued later are drained in any case.

    Raises:
        WriteBehindError: The queue has changed since ``find_faults`` in another way than by new
            writes; call it again. Or the database is older and ``keep`` is False.
        NodeUnavailableError: The queue node did not answer.
    """
    if fault.mismatch is Mismatch.DATABASE_IS_OLDER and not keep:
        message = (
            f"the queued writes of {fault.partition} were never drained, and only the database came back "
            "with an older state; keep them"
        )
        raise WriteBehindError(message)
    client = project_queue()
    with transaction.atomic(using=fault.using):
        checkpoint = _locked_checkpoint(fault)
        queues = _states(client, [fault.partition])[fault.partition]
        found = _mismatches(client, fault.partition, [checkpoint], queues)
        is_same = (fault.incarnation, fault.mismatch, fault.drained_batch) in found
        if not is_same or not _has_all(queues.get(fault.incarnation), fault.state):
            message = f"the queue of {fault.partition} has changed since it was inspected; run repair again"
            raise WriteBehindError(message)
        if fault.state is None:
            checkpoint.is_ended = True
        else:
            checkpoint.batch = _drained_batch(fault, fault.state, keep=keep)
            checkpoint.seal = fault.state.seals.get(checkpoint.batch, "")
        checkpoint.sampled_open = checkpoint.sampled_batch = 0
        checkpoint.save(update_fields=["batch", "seal", "is_ended", "sampled_open", "sampled_batch"])


def _drained_batch(fault: Fault, state: QueueState, *, keep: bool) -> int:
    """Return the number of the last batch that no drain may apply."""
    if fault.mismatch is Mismatch.BATCH_IS_MISSING:
        return fault.drained_batch + 1
    return state.done if keep else state.open_batch - 1


def _has_all(state: QueueState | None, seen: QueueState | None) -> bool:
    """Return whether a queue holds all that it held when it was inspected, and has deleted nothing since."""
    if state is None or seen is None:
        return state is seen
    return state.done == seen.done and seen.seals.items() <= state.seals.items()


def _locked_checkpoint(fault: Fault) -> WriteBehindCheckpoint:
    """Return the checkpoint of a fault, locked; one that the database lost is created."""
    checkpoints = WriteBehindCheckpoint.objects.using(fault.using).select_for_update()
    return checkpoints.get_or_create(
        label=fault.partition.label, partition=fault.partition.number, incarnation=fault.incarnation
    )[0]


def _mismatches(
    client: QueueClient,
    partition: Partition,
    checkpoints: Sequence[WriteBehindCheckpoint],
    queues: Mapping[str, QueueState],
) -> Iterator[tuple[str, Mismatch, int]]:
    """Yield the incarnation of each queue that contradicts its checkpoint, how, and the drained batch."""
    for checkpoint in checkpoints:
        if checkpoint.incarnation not in queues and not checkpoint.is_ended:
            yield checkpoint.incarnation, Mismatch.QUEUE_IS_GONE, checkpoint.batch
    by_incarnation = {checkpoint.incarnation: checkpoint for checkpoint in checkpoints}
    for incarnation, state in queues.items():
        checkpoint = by_incarnation.get(incarnation) or WriteBehindCheckpoint()
        if checkpoint.is_ended and not state.fields:
            continue
        mismatch = mismatch_of(checkpoint, state.open_batch, state.done, state.seals)
        if mismatch is None and _sealed_sizes(client, partition, state).get(checkpoint.batch + 1) == 0:
            mismatch = Mismatch.BATCH_IS_MISSING
        if mismatch is not None:
            yield incarnation, mismatch, checkpoint.batch


def _states(client: QueueClient, partitions: Sequence[Partition]) -> dict[Partition, dict[str, QueueState]]:
    """Return the queues of each partition by incarnation.

    Raises:
        RingCacheError: A node did not answer, or a queue is damaged.
    """
    states, unanswered = _answered_states(client, partitions)
    for error in unanswered.values():
        raise error
    return states


def _answered_states(
    client: QueueClient, partitions: Sequence[Partition]
) -> tuple[dict[Partition, dict[str, QueueState]], dict[str, NodeUnavailableError]]:
    """Return the queues of each partition by incarnation, and the errors of nodes that did not answer.

    Raises:
        NodeReplyError, WriteBehindDamagedError: A queue cannot be read.
    """
    states: dict[Partition, dict[str, QueueState]] = {}
    unanswered: dict[str, NodeUnavailableError] = {}
    for partition, queues in client.run(protocol.queue.queue_states(client.context, partitions)).items():
        states[partition] = {}
        for node, queue in queues.items():
            if isinstance(queue, NodeUnavailableError):
                unanswered[f"node {client.nodes[node].name!r}"] = queue
            elif isinstance(queue, RingCacheError):
                raise queue
            else:
                states[partition][queue.incarnation] = queue
    return states, unanswered


def _database_of(partition: Partition, checkpoints: Sequence[WriteBehindCheckpoint]) -> str:
    """Return the alias of the database of a partition, also of a model that the project no longer has."""
    for checkpoint in checkpoints:
        return str(checkpoint._state.db)
    return router.db_for_write(model_of(partition))


def _is_current(using: str, partition: Partition, incarnation: str, batch: int) -> bool:
    """Return whether no batch was drained since a checkpoint was read, so queue and checkpoint compare."""
    now = WriteBehindCheckpoint.objects.using(using).filter(
        label=partition.label, partition=partition.number, incarnation=incarnation
    )
    return (now.values_list("batch", flat=True).first() or 0) == batch


def _sealed_sizes(client: QueueClient, partition: Partition, state: QueueState | None) -> dict[int, int]:
    """Return the number of fields of each sealed batch that was not deleted."""
    if state is None:
        return {}
    numbers = range(state.done + 1, state.open_batch)
    return client.run(protocol.queue.batch_sizes(client.context, state.node, partition, numbers))
