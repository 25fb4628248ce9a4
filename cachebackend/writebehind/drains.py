"""A drain writes a partition's batches to the database, each in one transaction with its number.

    1. lock the partition's checkpoint row; if another worker holds the lock, stop;
    2. take the batch after the checkpoint; if it is still open, seal it, and wait until the
       seal is on the queue node's disk;
    3. read the batch, apply it, set the checkpoint to its number;
    4. commit: the batch is drained if and only if the checkpoint has its number;
    5. delete the batch's hash and set ``done``.

If the worker is killed before step 4, the database is unchanged and the batch is drained again.
If it is killed between steps 4 and 5, the checkpoint shows that the batch was drained, and the
next drain starts by deleting its hash.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from django.db import Error, OperationalError, models, router

from cachebackend import protocol
from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.errors import WriteBehindDamagedError, WriteBehindStoppedError
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation import invalidate_rows
from cachebackend.models import WriteBehindCheckpoint
from cachebackend.protocol.queue import Partition, QueueState
from cachebackend.protocol.queue.encodings import Encodings
from cachebackend.protocol.queue.sealing import Sealed
from cachebackend.tracing import span
from cachebackend.writebehind.apply import Applied
from cachebackend.writebehind.backoff import database_backoff, is_unreachable
from cachebackend.writebehind.batch import read_batch
from cachebackend.writebehind.checkpoint_rows import store_drained
from cachebackend.writebehind.checkpoints import WAY_OUT, Mismatch, Queues, require_database, require_match
from cachebackend.writebehind.parked import Outcome, apply_or_park
from cachebackend.writebehind.queue import model_of, project_queue, syncing_queue
from cachebackend.writebehind.retries import is_due
from cachebackend.writebehind.running_drains import running
from cachebackend.writebehind.status import databases
from cachebackend.writebehind.transactions import limited_transaction
from cachebackend.writebehind.waiting import landed

__all__ = ["Drained", "drain", "drop", "due_databases", "is_database_away"]

logger = logging.getLogger("cachebackend")
#: How many times a transaction is tried that fails because of concurrent transactions.
_TRIES = 5
#: The most batches that one call drops: more than any queue has room for.
MAX_DROPPED = 1_000_000
#: The most characters of an error that are stored. The first line only: later ones may hold a row's values.
MAX_ERROR = 500
#: The SQLSTATEs of these failures: a serialization failure, a deadlock.
_CONFLICTS = frozenset({"40001", "40P01"})


@dataclass(slots=True)
class Drained:
    """The result of a drain.

    Attributes:
        batches: The number of drained batches.
        rows: The number of rows that they changed.
        missing: The number of rows that they name and that do not exist.
        parked: The number of rows that were parked for a person.
        waiting: The number of rows that were parked and are retried by themselves.
        more: Whether writes are still queued that this drain did not handle.
    """

    batches: int = 0
    rows: int = 0
    missing: int = 0
    parked: int = 0
    waiting: int = 0
    more: bool = False


def drop(partition: Partition, using: str) -> int:
    """Delete the queued writes of a partition, as if they were drained; return the number of batches.

    Args:
        partition: The partition.
        using: The alias of the database with the partition's checkpoints.

    Raises:
        WriteBehindError, NodeUnavailableError, django.db.Error: As ``drain``.
    """
    drop_ = _Drop(partition, using)
    drop_.run(MAX_DROPPED)
    return drop_.drained.batches


def drain(
    partition: Partition,
    max_batches: int = 100,
    *,
    only_sealed: bool = False,
    into: type[models.Model] | None = None,
) -> Drained:
    """Drain the queued writes of a partition. Safe to run anywhere, any number of times at once.

    Args:
        partition: The partition.
        max_batches: The number of batches after which it stops, so that every task ends.
        only_sealed: Whether a batch that is open when the drain begins is left to the next ``seal_dirty``,
            unless it is the only one. A node that syncs its file once a second takes a second for
            each seal, and ``seal_dirty`` waits once for the seals of all partitions.
        into: The model to whose table the writes go; by default that whose label the partition has.

    Raises:
        WriteBehindStoppedError: The queue is behind the checkpoint, or is a different queue. Nothing
            was written.
        WriteBehindDamagedError: The queue holds bytes that no write puts there. Nothing of that
            batch was written.
        WriteBehindDatabaseError: The batch belongs to another database.
        WriteBehindVersionError: The batch waits for a worker that runs another version of the code.
        WriteBehindError: The partition's model is unknown here, or a queue node has no append-only file.
        NodeUnavailableError: A queue node did not answer. Batches that were drained stay drained.
        django.db.Error: The database failed. If it is unreachable, it is not tried again for a while.
    """
    drain_ = _Drain(partition, into or model_of(partition), only_sealed=only_sealed)
    if database_backoff.wait_seconds(drain_.using):
        drain_.drained.more = True
        return drain_.drained
    try:
        with running(partition), span("ringcache.drain", model=partition.label, partition=partition.number):
            drain_.run(max_batches)
    except Exception as error:
        if is_unreachable(drain_.using, error):
            database_backoff.failed(drain_.using, error)
        drain_.store_error(error)
        raise
    database_backoff.answered(drain_.using)
    return drain_.drained


def is_database_away(partition: Partition) -> bool:
    """Return whether the database of a partition did not answer lately; an outage is logged once."""
    return database_backoff.wait_seconds(router.db_for_write(model_of(partition))) > 0


def due_databases() -> list[str]:
    """Return the databases in which a parked write must be retried now. One that fails is left out."""
    due = []
    for using in databases():
        if not database_backoff.wait_seconds(using):
            try:
                due += [using] if is_due(using) else []
            except Error as error:
                raise_interrupt(error)
                if is_unreachable(using, error):
                    database_backoff.failed(using, error)
                else:
                    logger.error("write-behind: the parked writes in %r are not retried: %s", using, error)
    return due


class _Drain:
    """One drain of a partition."""

    def __init__(self, partition: Partition, model: type[models.Model], *, only_sealed: bool = False) -> None:
        self._client = project_queue()
        self._context = self._client.context
        self._partition = partition
        self._model = model
        self._owner = self._context.ring.owner(partition.name)
        self.using = router.db_for_write(model)
        # If no seal is waited for, seal_dirty seals nothing
        self._only_sealed = only_sealed and self._client.options.has_safe_seals
        self.drained = Drained()
        #: The seal of the batch that was drained last.
        self._seal = ""

    def run(self, max_batches: int) -> None:
        """Drain the partition's queues, the owner's last."""
        queues = Queues(self._client, self._partition)
        for state in queues.in_order():
            while True:
                if self.drained.batches == max_batches:
                    self.drained.more = True
                    return
                number = self._drain_next(state, queues)
                if number is None:
                    self.drained.more = True
                    return
                self.drained.more = number > 0 and self._close(state, range(number, number + 1), self._seal)
                if not number or (not self.drained.more and state.node == self._owner):
                    break
                # Writes that arrived after this drain began are left to the next: under load they never end
                if self.drained.more and number >= state.open_batch - self._only_sealed:
                    break
            if self.drained.more:
                return

    def store_error(self, error: Exception) -> None:
        """Store why the drain failed, for the status; a node that does not answer is seen there anyway."""
        text = str(error).partition("\n")[0][:MAX_ERROR] or type(error).__name__
        self._client.run(protocol.queue.fail(self._context, self._partition, text))

    def _close(self, state: QueueState, numbers: range, seal: str) -> bool:
        return self._client.run(protocol.queue.close(self._context, state, self._partition, numbers, seal))

    def _drain_next(self, state: QueueState, queues: Queues) -> int | None:
        """Drain the batch after the checkpoint in its own transaction; retry if others break it off.

        Returns:
            The batch's number; 0 if there is no batch; None if another worker drains it.
        """
        for attempt in range(_TRIES):
            try:
                # durable: the hash is deleted after this commit, so no outer transaction may roll it back
                started = SYSTEM_CLOCK.monotonic()
                with limited_transaction(self.using, durable=True):
                    number, outcome = self._drain_batch(state, queues)
                if number and outcome:
                    self._count(number, outcome, started)
                return number
            except OperationalError as error:
                raise_interrupt(error)
                if getattr(error.__cause__, "sqlstate", None) not in _CONFLICTS or attempt == _TRIES - 1:
                    raise
        return None

    def _drain_batch(self, state: QueueState, queues: Queues) -> tuple[int | None, Outcome | None]:
        """Drain the batch after the checkpoint inside the open transaction.

        Returns:
            The batch's number, as ``_drain_next``; and what became of the batch.
        """
        checkpoint = queues.lock_checkpoint(state, self.using)
        if checkpoint is None:
            return None, None
        number = checkpoint.batch + 1
        sealed_batch = self._read_sealed(state, checkpoint, number)
        if sealed_batch is None:
            if state.node != self._owner and not checkpoint.is_ended:
                checkpoint.is_ended = True
                checkpoint.save(update_fields=["is_ended"])
            return 0, None
        batch, sealed = sealed_batch
        outcome = self._write(state, number, batch, sealed.encodings)
        self._seal = sealed.seal
        store_drained(checkpoint, self.using, number, sealed.seal, outcome.applied)
        return number, outcome

    def _write(
        self, state: QueueState, number: int, batch: Mapping[bytes, bytes], encodings: Encodings
    ) -> Outcome:
        """Write a batch's rows inside the open transaction, and invalidate them."""
        require_database(self._partition, number, encodings, self.using)
        try:
            rows = read_batch(self._model, batch, encodings)
        except WriteBehindDamagedError as error:
            raise self._damaged(state, number, error) from error
        outcome = apply_or_park(self._model, self.using, self._partition, number, rows)
        invalidate_rows(outcome.applied.changes, self.using)
        return outcome

    def _read_sealed(
        self, state: QueueState, checkpoint: WriteBehindCheckpoint, number: int
    ) -> tuple[dict[bytes, bytes], Sealed] | None:
        """Return the batch's fields, once its seal is on disk, and the queue; None if there is no batch."""
        sealed = self._client.run(protocol.queue.seal(self._context, state, self._partition, number))
        require_match(checkpoint, sealed)
        if sealed.done < checkpoint.batch:
            self._close(state, range(sealed.done + 1, number), checkpoint.seal)
        if sealed.open_batch == number:
            return None
        if self._client.options.has_safe_seals and sealed.synced < number:
            seals = {self._partition: sealed.open_batch - 1}
            syncing = syncing_queue()
            syncing.run(protocol.queue.sync(syncing.context, state.node, seals))
        batch = self._client.run(protocol.queue.contents(self._context, state.node, self._partition, number))
        if not batch:
            message = (
                f"batch {number} of {self._partition} is sealed but missing: {Mismatch.BATCH_IS_MISSING}; "
                f"{WAY_OUT}"
            )
            raise WriteBehindStoppedError(message)
        return batch, sealed

    def _damaged(
        self, state: QueueState, number: int, error: WriteBehindDamagedError
    ) -> WriteBehindDamagedError:
        name = self._client.nodes[state.node].name
        key = self._context.batch(self._partition, number, state.node).decode()
        message = (
            f"batch {number} of {self._partition} on node {name!r} is damaged and cannot be drained: "
            f"{error}; to give up that field's write, HDEL it from {key}"
        )
        return WriteBehindDamagedError(message)

    def _send_landed(self, number: int, outcome: Outcome) -> None:
        """Send the signal; the error of a receiver is logged, for the batch is in the database."""
        sent = landed.send_robust(
            self._model,
            partition=self._partition,
            batch=number,
            rows=outcome.applied.rows,
            using=self.using,
        )
        errors = [(receiver, error) for receiver, error in sent if isinstance(error, Exception)]
        for _, error in errors:
            raise_interrupt(error)  # Django has caught it
        for receiver, error in errors:
            logger.error("a receiver of landed failed: %r", receiver, exc_info=error)

    def _count(self, number: int, outcome: Outcome, started: float) -> None:
        self.drained.batches += 1
        self.drained.rows += outcome.applied.rows
        self.drained.missing += outcome.applied.missing
        self.drained.parked += outcome.parked
        self.drained.waiting += outcome.waiting
        cell = self._client.counters.cell
        cell.rows += outcome.applied.rows
        cell.missing += outcome.applied.missing
        cell.parked += outcome.parked
        cell.drain_times.add(SYSTEM_CLOCK.monotonic() - started)
        self._send_landed(number, outcome)
        where = {"partition": str(self._partition)}
        if outcome.parked:
            logger.error(
                "write-behind: parked %d rows of batch %d of %s",
                outcome.parked,
                number,
                self._partition,
                extra=where | {"event": "writes_parked", "count": outcome.parked},
            )
        if outcome.waiting:
            logger.warning(
                "write-behind: %d rows of batch %d of %s wait for other rows, for locks or for a deploy",
                outcome.waiting,
                number,
                self._partition,
                extra=where | {"event": "writes_waiting", "count": outcome.waiting},
            )


class _Drop(_Drain):
    """A drain of a partition that writes nothing but the checkpoint."""

    def __init__(self, partition: Partition, using: str) -> None:
        super().__init__(partition, WriteBehindCheckpoint)  # its model may be gone
        self.using = using

    def _write(
        self, state: QueueState, number: int, batch: Mapping[bytes, bytes], encodings: Encodings
    ) -> Outcome:
        return Outcome(Applied(), 0, 0)
