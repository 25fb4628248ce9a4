"""How write-behind is: what waits, since when, what was parked, and whether its nodes are set up for it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import Error, router
from django.db.models import Count, Min

from cachebackend import protocol
from cachebackend.errors import RingCacheError
from cachebackend.models import ParkedWrite, WriteBehindCheckpoint
from cachebackend.protocol import Partition, Place
from cachebackend.writebehind.queue import behind_models, project_queue, watched_queue

__all__ = ["PartitionStatus", "databases", "node_faults", "partition_statuses"]

#: The settings of a server that write-behind rests on.
_SETTINGS = (b"maxmemory-policy", b"appendonly", b"appendfsync")


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition's queue on one node.

    Attributes:
        partition: The partition.
        node: The node's name.
        fields: How much waits: columns of rows.
        sealed: How many batches are sealed and have not landed.
        oldest_seconds: For how long the oldest write has waited; 0 if none does.
        landed: The last batch that landed.
        landed_at: When, in seconds since 1970; None if none has.
        rows: How many rows its batches have changed.
        missing: How many rows they named that were not there.
        parked: How many writes are parked.
        parked_since: When the first of them was, in seconds since 1970; None if none is.
        is_queue_seen: Whether its node answered; if not, what waits is not known, nor what landed.
        is_database_seen: Whether the database did; if not, what landed and is parked is not known.
        error: Why nothing more is known; None if all is.
    """

    partition: Partition
    node: str
    fields: int = 0
    sealed: int = 0
    oldest_seconds: float = 0.0
    landed: int = 0
    landed_at: float | None = None
    rows: int = 0
    missing: int = 0
    parked: int = 0
    parked_since: float | None = None
    is_queue_seen: bool = True
    is_database_seen: bool = True
    error: str | None = None


def databases() -> list[str]:
    """Return the aliases of the databases that writes land in."""
    return sorted({router.db_for_write(model) for model in behind_models()})


def partition_statuses() -> list[PartitionStatus]:
    """Return every partition that was ever written to, of the project's models.

    A node, or the database, that does not answer leaves its part out and is told in ``error``.
    """
    client = watched_queue()
    numbers = range(client.options.partitions)
    partitions = [Partition(m._meta.label_lower, number) for m in behind_models() for number in numbers]
    found = client.run(protocol.places(client.context, partitions))
    checkpoints, parked, error = _stored()
    statuses = []
    for partition, places in found.items():
        for node, place in places.items():
            name = client.options.all_nodes[node].name
            if not isinstance(place, Place):
                if node == client.context.ring.owner(partition.name):
                    statuses.append(
                        PartitionStatus(
                            partition,
                            name,
                            **parked.get(partition, {}),
                            is_queue_seen=False,
                            is_database_seen=error is None,
                            error=str(place),
                        )
                    )
                continue
            checkpoint = checkpoints.get((partition, place.born))
            at = checkpoint and checkpoint.landed_at
            statuses.append(
                PartitionStatus(
                    partition,
                    name,
                    fields=place.fields,
                    sealed=place.opened - place.done - 1,
                    oldest_seconds=0.0 if place.since is None else max(time.time() - place.since, 0.0),
                    landed=checkpoint.batch if checkpoint else 0,
                    landed_at=at.timestamp() if at else None,
                    rows=checkpoint.rows if checkpoint else 0,
                    missing=checkpoint.missing if checkpoint else 0,
                    **parked.get(partition, {}),
                    is_database_seen=error is None,
                    error=error,
                )
            )
    return statuses


def node_faults() -> list[str]:
    """Return what is wrong with the queue nodes, a sentence each with what to do about it."""
    client = project_queue()
    durability = client.options.durability
    faults = []
    for index, node in enumerate(client.options.all_nodes):
        try:
            settings = client.run(protocol.node_settings(client.context, index, _SETTINGS))
            found = list(_faults(settings, durability))
            if durability != "memory" and (fault := client.run(protocol.sync_fault(client.context, index))):
                found.append(fault)
        except RingCacheError as error:
            faults.append(str(error))
            continue
        faults += [f"queue node {node.name!r} {fault}" for fault in found]
    return faults


def _faults(settings: Mapping[bytes, str], durability: str) -> Iterator[str]:
    policy = settings.get(b"maxmemory-policy", "noeviction")
    if policy != "noeviction":
        yield f"may evict what waits (maxmemory-policy {policy}); set maxmemory-policy noeviction"
    if durability == "memory":
        return
    appendfsync = settings.get(b"appendfsync", "everysec")
    if settings.get(b"appendonly", "yes") == "no":
        yield "has no append-only file; set appendonly yes, or WRITE_BEHIND['durability'] to 'memory'"
    elif appendfsync == "no":
        yield "leaves it to its system when to write its file; set appendfsync everysec"
    elif durability == "fsync" and appendfsync != "always":
        yield "writes its file once a second, for which each write waits; set appendfsync always"


def _stored() -> tuple[
    dict[tuple[Partition, str], WriteBehindCheckpoint], dict[Partition, dict[str, Any]], str | None
]:
    """Return the checkpoints, what is parked of each partition, and why the databases do not tell more."""
    checkpoints: dict[tuple[Partition, str], WriteBehindCheckpoint] = {}
    parked: dict[Partition, dict[str, Any]] = {}
    try:
        for using in databases():
            for checkpoint in WriteBehindCheckpoint.objects.using(using).all():
                partition = Partition(checkpoint.label, checkpoint.partition)
                checkpoints[partition, checkpoint.incarnation] = checkpoint
            counted = ParkedWrite.objects.using(using).order_by().values("label", "partition")
            for row in counted.annotate(count=Count("pk"), first=Min("created")):
                held = {"parked": row["count"], "parked_since": row["first"].timestamp()}
                parked[Partition(row["label"], row["partition"])] = held
    except Error as error:
        return checkpoints, parked, f"the database does not answer: {error}"
    return checkpoints, parked, None
