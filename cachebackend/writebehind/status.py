"""The status of write-behind: queued and parked writes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

from django.db import connections, router
from django.db.models import Count, Min

from cachebackend import protocol
from cachebackend.client.queue import QueueClient
from cachebackend.invalidation.outbox import READ_TIMEOUT
from cachebackend.invalidation.outbox_databases import Server, ask_databases, server_of
from cachebackend.models import ParkedWrite, WriteBehindCheckpoint
from cachebackend.protocol.queue import Partition, QueueState
from cachebackend.writebehind.answers import Answers
from cachebackend.writebehind.node_faults import named_error
from cachebackend.writebehind.queue import (
    behind_models,
    configured_partitions,
    model_named,
    monitoring_queue,
)

__all__ = [
    "PartitionStatus",
    "all_databases",
    "databases",
    "partition_statuses",
]


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """The queue of one partition on one node. The attributes are keys of ``writebehind status --json``.

    What a server that does not answer holds is None.

    Attributes:
        partition: The partition.
        node: The node's name.
        fields: The number of queued fields: columns of rows.
        bytes: The bytes of their names and values.
        sealed: The number of sealed batches that are not drained.
        oldest_seconds: The age of the oldest queued write, in seconds; 0 if none is queued.
        landed: The number of the last drained batch.
        landed_at: When it was drained, in seconds since 1970; None if no batch was.
        sampled_at: When the queue was last sampled in the database, in seconds since 1970; None if it
            never was. If the node comes back with an older file, writes that it lost and that were
            acknowledged before are noticed; later ones may not be.
        rows: The number of rows that drained batches have changed.
        missing: The number of rows that they name and that do not exist.
        parked: The number of parked writes.
        parked_since: When the first of them was parked, in seconds since 1970; None if none is.
        is_queue_seen: Whether the node answered; if not, ``fields``, ``bytes``, ``sealed`` and
            ``oldest_seconds`` are None, and the numbers of drained batches are those of the last checkpoint.
        is_database_seen: Whether the database answered; if not, ``landed``, ``rows``, ``missing`` and
            ``parked`` are None.
        error: Why a part is unknown; None if everything is known.
        drain_error: Why the last drain failed; empty if a batch was drained since.
        failed_at: When it failed, in seconds since 1970; None if it did not.
    """

    partition: Partition
    node: str
    fields: int | None = 0
    bytes: int | None = 0
    sealed: int | None = 0
    oldest_seconds: float | None = 0.0
    landed: int | None = 0
    landed_at: float | None = None
    sampled_at: float | None = None
    rows: int | None = 0
    missing: int | None = 0
    parked: int | None = 0
    parked_since: float | None = None
    is_queue_seen: bool = True
    is_database_seen: bool = True
    error: str | None = None
    drain_error: str = ""
    failed_at: float | None = None


def databases() -> list[str]:
    """Return the aliases of the databases that batches are drained to."""
    return sorted({router.db_for_write(model) for model in behind_models()})


def all_databases() -> Answers[str]:
    """Return the aliases of ``databases``, and of those to which only models were drained that are gone.

    A database of the second kind is found by its tables. Replicas, which show the rows of another
    database, and further aliases of one database are left out. A database that does not answer may have the
    tables, so it is an error of the answer.
    """
    own = databases()
    others = [using for using in connections if using not in own and _may_have_tables(using)]
    asked = ask_databases(_server, READ_TIMEOUT, [*own, *others])
    found = [using for using in own if using in asked.found]
    seen = {server.identity for using in found if (server := asked.found[using]) is not None}
    for using in others:
        server = asked.found.get(using)
        if server is not None and not server.is_replica and server.identity not in seen:
            seen.add(server.identity)
            found.append(using)
    errors = {
        f"database {using!r}": error
        for using, error in asked.errors.items()
        if not isinstance(error, AssertionError)  # Django's, in a test that may not ask it
    }
    return Answers(sorted(found), errors)


def _may_have_tables(using: str) -> bool:
    """Return whether batches may have been drained to a database."""
    connection = connections[using]
    if connection.vendor != "postgresql" or connection.settings_dict["TEST"]["MIRROR"]:
        return False
    return bool(router.allow_migrate_model(using, ParkedWrite))


def _server(using: str) -> Server | None:
    """Return the database behind an alias; None if it has no tables of write-behind.

    Raises:
        Error: It does not answer.
    """
    connection = connections[using]
    if connection.vendor != "postgresql":
        return None
    tables = [
        connection.ops.quote_name(model._meta.db_table) for model in (ParkedWrite, WriteBehindCheckpoint)
    ]
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL AND to_regclass(%s) IS NOT NULL", tables)
        [has_tables] = cursor.fetchone()
    return server_of(using) if has_tables else None


def partition_statuses() -> list[PartitionStatus]:
    """Return the status of every partition that was ever written to, or that has queued writes.

    If a node or a database does not answer, its part is left out and ``error`` says why.
    """
    client = monitoring_queue()
    dirty, _ = client.run(protocol.queue.dirty(client.context))  # of models that are gone, too
    partitions = list(dict.fromkeys([*configured_partitions(client), *dirty]))
    states = client.run(protocol.queue.queue_states(client.context, partitions))
    ahead = _clocks_ahead(client)
    stored = _Stored.read()
    statuses = []
    for partition, queues in states.items():
        error = stored.error_of(partition)
        for node, state in queues.items():
            name = client.nodes[node].name
            if error is None:
                status = PartitionStatus(partition, name, **stored.parked.get(partition, {}))
            else:
                status = PartitionStatus(
                    partition,
                    name,
                    landed=None,
                    rows=None,
                    missing=None,
                    parked=None,
                    is_database_seen=False,
                    error=error,
                )
            if isinstance(state, QueueState):
                checkpoint = stored.checkpoints.get((partition, state.incarnation))
                statuses.append(_with_checkpoint(_with_queue(status, state, ahead[node]), checkpoint))
            elif node == client.context.ring.owner(partition.name):
                newest = _newest_checkpoint(stored.checkpoints, partition)
                status = replace(
                    status,
                    fields=None,
                    bytes=None,
                    sealed=None,
                    oldest_seconds=None,
                    is_queue_seen=False,
                    error=named_error(name, state),
                )
                statuses.append(_with_checkpoint(status, newest))
    return statuses


def _newest_checkpoint(
    checkpoints: Mapping[tuple[Partition, str], WriteBehindCheckpoint], partition: Partition
) -> WriteBehindCheckpoint | None:
    """Return a partition's last checkpoint, for a queue that does not report its incarnation."""
    drained = [
        (each.landed_at, each)
        for (of, _), each in checkpoints.items()
        if of == partition and each.landed_at is not None
    ]
    return max(drained, key=itemgetter(0), default=(None, None))[1]


def _clocks_ahead(client: QueueClient) -> dict[int, float]:
    """Return by how many seconds this process' clock is ahead of each queue node's; 0.0 if it is unknown.

    The times in queues are by the clocks of the processes that write. Most of these agree with the node's,
    so the age of a write is right even if the clock of this process is wrong.
    """
    times = client.run(protocol.telemetry.node_times(client.context, range(len(client.nodes))))
    now = time.time()
    return {node: now - at if isinstance(at, float) and at else 0.0 for node, at in times.items()}


def _with_queue(status: PartitionStatus, state: QueueState, ahead: float) -> PartitionStatus:
    """Return a status with the numbers of its queue, and its times by this process' clock."""
    return replace(
        status,
        fields=state.fields,
        bytes=state.bytes,
        sealed=state.open_batch - state.done - 1,
        oldest_seconds=0.0 if state.since is None else max(time.time() - ahead - state.since, 0.0),
        drain_error=state.error,
        failed_at=state.failed_at + ahead if state.failed_at else None,
    )


def _with_checkpoint(status: PartitionStatus, checkpoint: WriteBehindCheckpoint | None) -> PartitionStatus:
    """Return a status with the numbers of its checkpoint."""
    if checkpoint is None:
        return status
    drained_at, sampled_at = checkpoint.landed_at, checkpoint.sampled_at
    return replace(
        status,
        landed=checkpoint.batch,
        landed_at=drained_at.timestamp() if drained_at else None,
        sampled_at=sampled_at.timestamp() if sampled_at else None,
        rows=checkpoint.rows,
        missing=checkpoint.missing,
    )


@dataclass(slots=True)
class _Stored:
    """What the databases store of the partitions.

    Attributes:
        checkpoints: The checkpoints by partition and incarnation.
        parked: The number of parked writes, and since when, by partition.
        errors: For the alias of each database that failed its error.
    """

    checkpoints: dict[tuple[Partition, str], WriteBehindCheckpoint] = field(default_factory=dict)
    parked: dict[Partition, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls) -> _Stored:
        """Return what the databases that answer store."""
        stored = cls()
        asked = ask_databases(_stored_in, READ_TIMEOUT, databases())
        for found in asked.found.values():
            stored._add(*found)
        for using, error in asked.errors.items():
            stored.errors[using] = f"the database {using!r} does not answer: {error}"
        return stored

    def _add(self, checkpoints: list[WriteBehindCheckpoint], parked: list[dict[str, Any]]) -> None:
        for checkpoint in checkpoints:
            partition = Partition(checkpoint.label, checkpoint.partition)
            self.checkpoints[partition, checkpoint.incarnation] = checkpoint
        for row in parked:
            values = {"parked": row["count"], "parked_since": row["first"].timestamp()}
            self.parked[Partition(row["label"], row["partition"])] = values

    def error_of(self, partition: Partition) -> str | None:
        """Return the error of the database to which a partition is drained; None if it answered."""
        model = model_named(partition.label)
        return self.errors.get(router.db_for_write(model)) if model is not None else None


def _stored_in(using: str) -> tuple[list[WriteBehindCheckpoint], list[dict[str, Any]]]:
    """Return the checkpoints of a database, and for each partition its number of parked writes."""
    counted = ParkedWrite.objects.using(using).order_by().values("label", "partition")
    parked: Iterable[Any] = counted.annotate(count=Count("pk"), first=Min("created"))
    return list(WriteBehindCheckpoint.objects.using(using)), list(parked)
