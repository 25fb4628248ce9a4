"""Bisection: rows that the database refuses are found by halving their batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from django.db import DatabaseError, connections, models, transaction

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.errors import WriteBehindDamagedError, WriteBehindVersionError
from cachebackend.interrupts import raise_interrupt
from cachebackend.writebehind.apply import Applied, apply_batch
from cachebackend.writebehind.batch import CREATED, BatchRow, RowGroup, group_rows, rows_of
from cachebackend.writebehind.limits import limit_locks
from cachebackend.writebehind.refusals import LOCKED, TOO_LARGE, TOO_SLOW, Refusal, refusal_of
from cachebackend.writebehind.repeated_failures import repeated_failures
from cachebackend.writebehind.statement_sizes import statement_sizes
from cachebackend.writebehind.stored_columns import read_stored_columns
from cachebackend.writebehind.versions import columns_fault, has_other_types

__all__ = ["Bisection"]

#: Seconds, of those that a drain may take, in which refused rows are looked for.
BISECTION_SECONDS = 40.0
#: Seconds, of those that a drain may take, in which statements may begin.
WRITE_SECONDS = 50.0
#: Milliseconds that a part of the batch waits for a lock, after the whole batch has waited in vain.
PART_LOCK_MS = 50


class Bisection:
    """Applies rows, and finds those that the database refuses.

    Args:
        model: The rows' model.
        using: The alias of the database.
        name: The name of the batch, by which its earlier failures are found.
        is_deferred: Whether the caller checks deferred constraints, after other rows are written too.

    Attributes:
        applied: What was applied.
        refused: The rows that were not written, each with the reason.
    """

    def __init__(
        self, model: type[models.Model], using: str, name: str, *, is_deferred: bool = False
    ) -> None:
        self._model = model
        self._using = using
        self._name = name
        self._is_deferred = is_deferred
        self._is_repeated = False
        self._stored = read_stored_columns(model, using)
        self._began = SYSTEM_CLOCK.monotonic()
        self._is_table_well = False
        self.applied = Applied()
        self._lock_ms: int | None = None
        self.refused: list[tuple[BatchRow, Refusal]] = []

    def apply(self, batch: Sequence[RowGroup]) -> None:
        """Write rows; while the database refuses some, halve them until each refused row is found.

        If the time is over before that, all rows that are not separated yet are refused, good and
        bad. A batch that can never be drained would be worse.

        Raises:
            django.db.Error: The error is not one row's own: the batch must be retried.
            WriteBehindVersionError: The batch must wait for a worker of another version.
        """
        if fault := self.version_fault(column for group in batch for column, _ in group.shape):
            raise WriteBehindVersionError(fault)
        self._apply_or_halve(batch)
        repeated_failures.forget(self._name)

    def version_fault(self, columns: Iterable[str]) -> str | None:
        """Return why a write of some columns waits for a worker of another version; None if it does not."""
        return columns_fault(self._model, columns, self._stored)

    def _apply_or_halve(self, batch: Sequence[RowGroup]) -> None:
        if not batch:
            return
        try:
            applied = self._apply(batch)
        except (DatabaseError, WriteBehindDamagedError) as error:
            raise_interrupt(error)
            refusal, rows = self._refusal_of(error), rows_of(batch)
            if refusal is None:
                raise
            if len(well := self._well_groups(batch)) < len(batch):
                self._apply_or_halve(well)
                return
            if refusal.sqlstate == LOCKED:
                self._lock_ms = PART_LOCK_MS
            if refusal.sqlstate == TOO_SLOW:
                statement_sizes.halve(self._model, self._using, len(rows))
            if len(rows) > 1 and self._has_time():
                middle = len(rows) // 2
                self._apply_or_halve(group_rows(rows[:middle]))
                self._apply_or_halve(group_rows(rows[middle:]))
                return
            if len(rows) > 1:
                found = f"One of {len(rows)} rows, too many to find it in time; this row may be fine: "
                refusal = refusal._replace(text=found + refusal.text)
            self.refused += [(row, self._of_version(row, refusal)) for row in rows]
        else:
            refused, applied.refused = applied.refused, {}
            if refused:
                self.refused += [(row, refused[row.pk]) for row in rows_of(batch) if row.pk in refused]
            self.applied.add(applied)

    def apply_refused_again(self) -> None:
        """Apply each refused row again, while that applies any and there is time.

        What it depends on, such as a parent row or a unique value that becomes free, may have been
        applied after it. A lock is not waited for again.
        """
        before = 0
        while self.refused and self.applied.rows > before and self._has_time():
            before = self.applied.rows
            refused, self.refused = self.refused, []
            for row, refusal in refused:
                is_final = refusal.is_of_table or refusal.sqlstate in {"", LOCKED, TOO_SLOW}
                if self._has_time() and not is_final:
                    self._apply_or_halve(group_rows([row]))
                else:
                    self.refused.append((row, refusal))

    def _refusal_of(self, error: Exception) -> Refusal | None:
        """Return the refusal if one row may be at fault: also after the batch has failed so several times."""
        if (refusal := refusal_of(error, is_repeated=self._is_repeated)) is None:
            self._is_repeated = repeated_failures.is_repeated(self._name, error)
            refusal = refusal_of(error, is_repeated=self._is_repeated)
        return refusal

    def _of_version(self, row: BatchRow, refusal: Refusal) -> Refusal:
        """Return the refusal of a row; if the table is of another version, the row waits for a deploy."""
        if refusal.sqlstate not in TOO_LARGE:
            return refusal
        columns = (column for column, _ in row.changes)
        is_other = has_other_types(self._model, self._using, columns, self._stored)
        return refusal._replace(is_of_table=is_other)

    def _has_time(self) -> bool:
        return SYSTEM_CLOCK.monotonic() < self._began + BISECTION_SECONDS

    def _may_begin(self) -> bool:
        return SYSTEM_CLOCK.monotonic() < self._began + WRITE_SECONDS

    def _well_groups(self, batch: Sequence[RowGroup]) -> list[RowGroup]:
        """Return the groups whose statements succeed without rows; the rows of the others are set aside.

        The table may have no unique index on its key, so that no row can be created, or it may be closed to
        this user for some columns.

        Raises:
            django.db.Error: The table is missing, locked, or closed to this user: no group is at fault.
        """
        if self._is_table_well:
            return list(batch)
        faults = [self._fault_without_rows(group) for group in batch]
        for group, fault in zip(batch, faults, strict=True):
            refusal = refusal_of(fault) if fault else None
            if fault and (refusal is None or refusal.sqlstate == LOCKED):
                raise fault
            if fault and all(faults) and (group.marker not in CREATED or self._fault_of_update(group)):
                raise fault
            if refusal:
                self.refused += [(row, refusal._replace(is_of_table=True)) for row in rows_of([group])]
        self._is_table_well = True
        return [group for group, fault in zip(batch, faults, strict=True) if not fault]

    def _fault_without_rows(self, group: RowGroup) -> DatabaseError | None:
        try:
            self._apply([group.without_rows()])
        except DatabaseError as error:
            raise_interrupt(error)
            return error
        return None

    def _fault_of_update(self, group: RowGroup) -> DatabaseError | None:
        """Return the error of a statement without rows that changes the columns of a group."""
        return self._fault_without_rows(replace(group, marker=b""))

    def _apply(self, batch: Sequence[RowGroup]) -> Applied:
        with transaction.atomic(using=self._using), connections[self._using].cursor() as cursor:
            # Rows of one batch may depend on each other in any order, but constraints are checked at the
            # end of this batch. And every join except a hash join reads rows in the order of their keys,
            # so rows are locked in that order
            cursor.execute("SET CONSTRAINTS ALL DEFERRED; SET LOCAL enable_hashjoin = off")
            if self._lock_ms is not None:
                limit_locks(self._using, self._lock_ms)
            applied = apply_batch(
                self._model,
                self._using,
                batch,
                self._stored,
                chunk_rows=statement_sizes.rows(self._model, self._using),
                may_begin=self._may_begin,
            )
            if not self._is_deferred:
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        return applied
