"""Seals of all partitions with queued writes, before their drains: each node syncs its disk once."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from django.db import Error

from cachebackend import protocol
from cachebackend.client.queue import QueueClient
from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.effects import side_by_side
from cachebackend.errors import RingCacheError
from cachebackend.interrupts import raise_interrupt
from cachebackend.protocol.queue import Partition, QueueState
from cachebackend.writebehind.answers import Answers
from cachebackend.writebehind.backoff import database_backoff, is_unreachable
from cachebackend.writebehind.moves import moved_partitions
from cachebackend.writebehind.queue import project_queue, syncing_queue
from cachebackend.writebehind.samples import Sample, by_database, store_samples

__all__ = ["dirty_partitions", "find_dirty", "seal_dirty"]

logger = logging.getLogger("cachebackend")


def dirty_partitions() -> list[tuple[Partition, float]]:
    """Return the partitions to drain, and the time of each one's oldest write (seconds since 1970).

    Those are the partitions with queued writes, and those with a queue on a node that they have
    left: it is marked as ended when it is empty.

    Raises:
        RingCacheError: A queue node did not answer: it may hold writes of more partitions.
        django.db.Error: A database did not answer, while nodes are replaced.
    """
    return find_dirty().complete()


def find_dirty() -> Answers[tuple[Partition, float]]:
    """Return the partitions to drain, as ``dirty_partitions``, of the servers that answer."""
    client = project_queue()
    dirty, unanswered = client.run(protocol.queue.dirty(client.context))
    moved = moved_partitions(client)
    names = {f"node {client.nodes[node].name!r}": error for node, error in unanswered.items()}
    now = SYSTEM_CLOCK.now()
    return Answers((dict.fromkeys(moved, now) | dirty).items(), names | moved.errors)


def seal_dirty() -> list[Partition]:
    """Seal the open batch of each partition with queued writes, so that it can be drained.

    All seals of a node are synced to its disk together, on all nodes at the same time, before any drain
    starts, and sampled in the database. If a node fails, its partitions are left out and the error is
    logged: the next tick finds them.

    Returns:
        The partitions to drain, as ``dirty_partitions``.

    Raises:
        NodeUnavailableError: No queue node answered.
    """
    client = project_queue()
    dirty, unanswered = client.run(protocol.queue.dirty(client.context))
    for error in unanswered.values():
        if len(unanswered) == len(client.context.nodes):
            raise error
        logger.warning("write-behind: %s; the writes queued there are not drained", error)
    partitions = dict.fromkeys([*dirty, *moved_partitions(client)])
    if not dirty or not client.options.has_safe_seals:
        return list(partitions)
    by_node: dict[int, dict[Partition, QueueState]] = {}
    for partition, queues in client.run(protocol.queue.queue_states(client.context, list(dirty))).items():
        for node, state in queues.items():
            if isinstance(state, QueueState) and state.fields:
                by_node.setdefault(node, {})[partition] = state
    syncing = syncing_queue()
    samples: list[Sample] = []
    seals = [protocol.queue.seal_many(syncing.context, states) for states in by_node.values()]
    for states, sealed in zip(by_node.values(), syncing.run(side_by_side(seals)), strict=True):
        if isinstance(sealed, RingCacheError):
            logger.error("write-behind: %s; the writes queued there are not drained", sealed)
            for partition in states:
                partitions.pop(partition, None)
        else:
            samples += [Sample(partition, states[partition], each) for partition, each in sealed.items()]
    _sample(client, samples)
    return list(partitions)


def _sample(client: QueueClient, samples: Iterable[Sample]) -> None:
    """Store samples in the databases that can be reached; a drain reports why another one cannot."""
    for using, own in by_database(samples).items():
        if not database_backoff.wait_seconds(using):
            try:
                store_samples(client, using, own)
            except Error as error:
                raise_interrupt(error)
                if is_unreachable(using, error):
                    database_backoff.failed(using, error)
                else:
                    logger.warning("the queues are not sampled in the database %r: %s", using, error)
