"""Seals of all partitions with queued writes, before their drains: each node syncs its disk once."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from django.db import Error

from cachebackend import protocol
from cachebackend.client import QueueClient
from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.errors import RingCacheError
from cachebackend.protocol import Partition, QueueState
from cachebackend.writebehind.backoff import database_backoff
from cachebackend.writebehind.moves import moved_partitions
from cachebackend.writebehind.queue import project_queue, syncing_queue
from cachebackend.writebehind.samples import Sample, by_database, store_samples

__all__ = ["dirty_partitions", "seal_dirty"]

logger = logging.getLogger("cachebackend")


def dirty_partitions() -> list[tuple[Partition, float]]:
    """Return the partitions to drain, and the time of each one's oldest write (seconds since 1970).

    Those are the partitions with queued writes, and those with a queue on a node that they have
    left: it is marked as ended when it is empty.
    """
    client = project_queue()
    dirty = client.run(protocol.dirty(client.context))
    now = SYSTEM_CLOCK.now()
    return list((dict.fromkeys(moved_partitions(client), now) | dirty).items())


def seal_dirty() -> list[Partition]:
    """Seal the open batch of each partition with queued writes, so that it can be drained.

    All seals of a node are synced to its disk together, before any drain starts, and sampled in the
    database. If a node fails, its partitions are left out and the error is logged.

    Returns:
        The partitions to drain, as ``dirty_partitions``.

    Raises:
        NodeUnavailableError: No queue node answered.
    """
    client = project_queue()
    dirty = client.run(protocol.dirty(client.context))
    partitions = dict.fromkeys([*dirty, *moved_partitions(client)])
    if not dirty or client.options.durability == "memory":
        return list(partitions)
    by_node: dict[int, dict[Partition, QueueState]] = {}
    for partition, queues in client.run(protocol.queue_states(client.context, list(dirty))).items():
        for node, state in queues.items():
            if isinstance(state, QueueState) and state.fields:
                by_node.setdefault(node, {})[partition] = state
    syncing = syncing_queue()
    samples: dict[Partition, Sample] = {}
    for states in by_node.values():
        try:
            sealed = syncing.run(protocol.seal_many(syncing.context, states))
            samples |= {partition: (states[partition], each) for partition, each in sealed.items()}
        except RingCacheError as error:
            logger.error("write-behind: %s; the writes queued there are not drained", error)
            for partition in states:
                partitions.pop(partition, None)
    _sample(client, samples)
    return list(partitions)


def _sample(client: QueueClient, samples: Mapping[Partition, Sample]) -> None:
    """Store samples in the databases that can be reached; a drain reports why another one cannot."""
    for using, own in by_database(samples).items():
        if not database_backoff.wait_seconds(using):
            try:
                store_samples(client, using, own)
            except Error as error:
                logger.warning("the queues are not sampled in the database %r: %s", using, error)
