"""Requests for drains, so that one Celery task at a time waits for each partition."""

from __future__ import annotations

from collections.abc import Sequence

from cachebackend import protocol
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind.queue import project_queue

__all__ = ["begin_drain", "request_drains"]


def request_drains(partitions: Sequence[Partition]) -> list[Partition]:
    """Request a drain of each partition; return those for which no request was pending.

    A request is pending until ``begin_drain``, so a slow worker gets one task for each partition.
    """
    client = project_queue()
    return client.run(protocol.queue.request_drains(client.context, partitions))


def begin_drain(partition: Partition) -> None:
    """Record that the requested drain of a partition begins; later writes need another request."""
    client = project_queue()
    client.run(protocol.queue.begin_drain(client.context, partition))
