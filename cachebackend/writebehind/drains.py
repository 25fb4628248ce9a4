"""A drain lands a partition's batches, each in one transaction with its number.

    1. lock the partition's checkpoint row, or leave it to the worker that has it;
    2. take the batch after the checkpoint, sealing it first if it is still open, and wait
       until the seal is on the queue node's disk;
    3. read it, apply it, set the checkpoint to its number;
    4. commit: the batch has landed if and only if its number stands;
    5. delete its hash and set ``done``.

Killed before 4, nothing happened and the batch is taken again. Killed between 4 and 5,
the number says that it landed, and the next drain begins by deleting what is left.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from django.db import InterfaceError, OperationalError, connections, router, transaction
from django.utils import timezone

from cachebackend import protocol
from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.errors import RingCacheError, WriteBehindDamagedError, WriteBehindStoppedError
from cachebackend.invalidation import invalidate_rows
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol import Partition, Place
from cachebackend.tracing import span
from cachebackend.writebehind.apply import Applied
from cachebackend.writebehind.backoff import Backoff
from cachebackend.writebehind.batch import read_batch
from cachebackend.writebehind.checkpoints import Queues, refuse_other_times
from cachebackend.writebehind.parked import apply_or_park
from cachebackend.writebehind.queue import model_of, project_queue

__all__ = ["Drained", "dirty_partitions", "drain", "seal_dirty"]

logger = logging.getLogger("cachebackend")
#: Milliseconds that a statement may take, a lock it waits for included; its batch is taken again later.
STATEMENT_MS = 60_000
#: How often a transaction is tried that others' locks broke off.
_TRIES = 5
#: What Postgres says then: a serialization failure, a deadlock.
_BROKEN_OFF = frozenset({"40001", "40P01"})

_backoff = Backoff(SYSTEM_CLOCK)


@dataclass(slots=True)
class Drained:
    """What a drain did.

    Attributes:
        batches: How many batches landed.
        rows: How many rows they changed.
        missing: How many rows they named that were not there.
        parked: How many rows were parked.
        more: True if writes wait that it did not come to.
    """

    batches: int = 0
    rows: int = 0
    missing: int = 0
    parked: int = 0
    more: bool = False


def dirty_partitions() -> list[tuple[Partition, float]]:
    """Return the partitions that hold writes, and when each one's oldest came (seconds since 1970)."""
    client = project_queue()
    return list(client.run(protocol.dirty(client.context)).items())


def seal_dirty() -> list[Partition]:
    """Seal what is open in each partition that holds writes, so that it can land; return these partitions.

    All seals of a node are brought to its disk together, before anything lands. The partitions
    of a node that fails are left out, and the log says why.

    Raises:
        NodeUnavailableError: No queue node answered.
    """
    client = project_queue()
    found = client.run(protocol.dirty(client.context))
    if not found or client.options.durability == "memory":
        return list(found)
    waiting: dict[int, dict[Partition, Place]] = {}
    for partition, queues in client.run(protocol.places(client.context, list(found))).items():
        for node, place in queues.items():
            if isinstance(place, Place) and place.fields:
                waiting.setdefault(node, {})[partition] = place
    for places in waiting.values():
        try:
            client.run(protocol.seal_many(client.context, places))
        except RingCacheError as error:
            logger.error("write-behind: %s; what waits there is not drained", error)
            for partition in places:
                found.pop(partition, None)
    return list(found)


def drain(partition: Partition, most_batches: int = 100) -> Drained:
    """Land what stands in a partition; may run anywhere, any number at once.

    Args:
        partition: The partition.
        most_batches: After so many it stops, so that no task is endless.

    Raises:
        WriteBehindStoppedError: The queue is behind the checkpoint, or is another. Nothing
            was written.
        WriteBehindDamagedError: The queue holds what no write puts there. Nothing was written of
            that batch.
        WriteBehindError: Its model is unknown here, or a queue node has no file to keep it in.
        NodeUnavailableError: A queue node did not answer. What had landed stays so.
        django.db.Error: The database is away; it is left alone for a while.
    """
    work = _Drain(partition)
    if _backoff.waits(work.using):
        work.drained.more = True
        return work.drained
    try:
        with span("ringcache.drain", model=partition.label, partition=partition.number):
            work.run(most_batches)
    except (OperationalError, InterfaceError) as error:
        if not connections[work.using].is_usable():
            _backoff.failed(work.using, error)
        raise
    _backoff.answered(work.using)
    return work.drained


class _Drain:
    """One drain of a partition."""

    def __init__(self, partition: Partition) -> None:
        self._client = project_queue()
        self._context = self._client.context
        self._partition = partition
        self._model = model_of(partition)
        self._owner = self._context.ring.owner(partition.name)
        self.using = router.db_for_write(self._model)
        self.drained = Drained()

    def run(self, most_batches: int) -> None:
        """Land the partition's queues, the owner's last."""
        queues = Queues(self._client, self._partition)
        for place in queues.in_order():
            while True:
                if self.drained.batches == most_batches:
                    self.drained.more = True
                    return
                landed = self._land_next(place, queues)
                if landed is None:
                    self.drained.more = True
                    return
                self.drained.more = landed > 0 and self._close(place, range(landed, landed + 1))
                if not landed or (not self.drained.more and place.node == self._owner):
                    break
                # What came since this drain began is the next one's: under load there is always more
                if self.drained.more and landed >= place.opened:
                    break
            if self.drained.more:
                return

    def _close(self, place: Place, numbers: range) -> bool:
        return self._client.run(protocol.close(self._context, place, self._partition, numbers))

    def _land_next(self, place: Place, queues: Queues) -> int | None:
        """Land the batch after the checkpoint and return its number; 0: there is none; None: another does."""
        for turn in range(_TRIES):
            try:
                # durable: the hash is deleted after this commit, which must be the last word
                with transaction.atomic(using=self.using, durable=True):
                    return self._land(place, queues)
            except OperationalError as error:
                if getattr(error.__cause__, "sqlstate", None) not in _BROKEN_OFF or turn == _TRIES - 1:
                    raise
        return None

    def _land(self, place: Place, queues: Queues) -> int | None:
        """Land the batch after the checkpoint, in the transaction that is open."""
        begun = SYSTEM_CLOCK.monotonic()
        _limit_statements(self.using)
        checkpoint = queues.lock_checkpoint(place, self.using)
        if checkpoint is None:
            return None
        number = checkpoint.batch + 1
        taken = self._take(place, checkpoint, number)
        if taken is None:
            if place.node != self._owner and not checkpoint.is_ended:
                checkpoint.is_ended = True
                checkpoint.save(update_fields=["is_ended"])
            return 0
        batch, seal = taken
        try:
            rows = read_batch(self._model, batch)
        except WriteBehindDamagedError as error:
            raise self._damaged(place, number, error) from error
        applied, parked = apply_or_park(self._model, self.using, self._partition, number, rows)
        invalidate_rows(self._model, applied.touched, self.using)
        checkpoint.batch, checkpoint.seal = number, seal
        checkpoint.is_ended = False
        checkpoint.landed_at = timezone.now()
        checkpoint.rows += applied.rows
        checkpoint.missing += applied.missing
        checkpoint.save(update_fields=["batch", "seal", "is_ended", "landed_at", "rows", "missing"])
        transaction.on_commit(lambda: self._count(number, applied, parked, begun), using=self.using)
        return number

    def _take(
        self, place: Place, checkpoint: WriteBehindCheckpoint, number: int
    ) -> tuple[dict[bytes, bytes], str] | None:
        """Return what the batch holds, sealed on the disk, and its seal; None if there is no such batch."""
        sealed = self._client.run(protocol.seal(self._context, place, self._partition, number))
        refuse_other_times(checkpoint, sealed)
        if sealed.done < checkpoint.batch:
            self._close(place, range(sealed.done + 1, number))
        if sealed.opened == number:
            return None
        if self._client.options.durability != "memory" and sealed.synced < number:
            seals = {self._partition: sealed.opened - 1}
            self._client.run(protocol.sync(self._context, place.node, seals))
        batch = self._client.run(protocol.contents(self._context, place.node, self._partition, number))
        if not batch:
            message = f"batch {number} of {self._partition} is sealed but gone from its node"
            raise WriteBehindStoppedError(message)
        return batch, sealed.seal

    def _damaged(self, place: Place, number: int, error: WriteBehindDamagedError) -> WriteBehindDamagedError:
        name = self._client.options.all_nodes[place.node].name
        message = (
            f"batch {number} of {self._partition} on node {name!r} is damaged and cannot land: {error}; "
            f"to give up what that field was, HDEL it from {self._partition.batch(number).decode()}"
        )
        return WriteBehindDamagedError(message)

    def _count(self, number: int, applied: Applied, parked: int, begun: float) -> None:
        self.drained.batches += 1
        self.drained.rows += applied.rows
        self.drained.missing += applied.missing
        self.drained.parked += parked
        cell = self._client.counters.cell
        cell.rows += applied.rows
        cell.parked += parked
        cell.drain_times.add(SYSTEM_CLOCK.monotonic() - begun)
        if parked:
            logger.error(
                "write-behind: %d rows of batch %d of %s parked",
                parked,
                number,
                self._partition,
                extra={"event": "writes_parked", "partition": str(self._partition), "count": parked},
            )


def _limit_statements(using: str) -> None:
    connection = connections[using]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {STATEMENT_MS}")
