"""Parked writes: rows that Postgres refuses or that cannot be decoded, found by bisection and set aside.

The rest of their batch is applied. Later writes of a parked row are parked behind it, so that
their order is kept. A row's parked writes are found by its model and key, and locked together:

    1. a drain locks the parked writes of the rows in its batch, and holds back the rows that have some;
    2. a retry locks the parked writes of a row, applies the first one and deletes it;
    3. the second one waits for the first, and then sees what the first has left.

A person retries or discards a parked write. One that waits for another row or for a lock is also
retried by itself, until it is applied: after as long as it has waited, and at least once a minute.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

import ormsgpack
from django.db import models, transaction
from django.db.models import F, Value
from django.db.models.functions import Greatest, Least, Now

from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation import invalidate_rows
from cachebackend.models import ParkedWrite
from cachebackend.protocol import Partition
from cachebackend.writebehind.apply import Applied
from cachebackend.writebehind.batch import BatchRow, RowGroup, group_rows, rows_of
from cachebackend.writebehind.bisection import Bisection
from cachebackend.writebehind.changes import Rows
from cachebackend.writebehind.composition import compose
from cachebackend.writebehind.conversion import pack_changes, unpack_changes
from cachebackend.writebehind.encoding import encoding_of
from cachebackend.writebehind.limits import limit_times
from cachebackend.writebehind.queue import model_named
from cachebackend.writebehind.refusals import Refusal

__all__ = [
    "Outcome",
    "Retried",
    "apply_or_park",
    "discard",
    "is_due",
    "parked_of",
    "retry",
    "retry_waiting",
    "row_of",
]

#: The time until a waiting write is retried: at first, and at most.
FIRST_WAIT, LONGEST_WAIT = timedelta(seconds=1), timedelta(seconds=60)
#: The error of a write that is parked only because an earlier one of its row is.
BEHIND = Refusal("Parked behind an earlier write of the row.")
#: Rows that are retried by themselves in one transaction: few, so that drains of them wait only briefly.
ROWS_LOCKED = 100
#: Rows that one call retries by itself, so that every task ends.
ROWS_RETRIED = 1000


class Outcome(NamedTuple):
    """What became of a batch.

    Attributes:
        applied: What was applied.
        parked: The number of rows that were parked for a person.
        waiting: The number of rows that were parked and are retried by themselves.
    """

    applied: Applied
    parked: int
    waiting: int


@dataclass(slots=True)
class Retried:
    """The result of retrying parked writes.

    Attributes:
        applied: The number of writes that were applied.
        missing: The number of writes whose rows do not exist any more; they are no longer parked.
        remaining: The writes that are still parked: those that Postgres refused again, with the new
            error; those behind them; and those of a model that the project no longer has.
    """

    applied: int = 0
    missing: int = 0
    remaining: list[ParkedWrite] = field(default_factory=list)


def apply_or_park(
    model: type[models.Model], using: str, partition: Partition, number: int, batch: Sequence[RowGroup]
) -> Outcome:
    """Write a batch's rows inside the caller's transaction; park the rows that are refused."""
    earlier = _lock_parked(model, using, partition.label, batch)
    held_back: list[BatchRow] = []
    if earlier:
        rows = rows_of(batch)
        held_back = [row for row in rows if _key_text(model, row.pk) in earlier]
        batch = group_rows(row for row in rows if _key_text(model, row.pk) not in earlier)
    bisection = Bisection(model, using, f"{using} {partition} {number}")
    bisection.apply(batch)
    bisection.apply_refused_again()
    new, composed = list(bisection.refused), []
    for row in held_back:
        _, *behind = earlier[_key_text(model, row.pk)]  # the first one is refused, and keeps its error
        if write := _compose_with_last(model, behind, row):
            write.batch = number
            composed.append(write)
        else:
            new.append((row, BEHIND))
    parked = ParkedWrite.objects.using(using)
    parked.bulk_update(composed, ["changes", "batch"])
    parked.bulk_create(_parked(model, partition, number, row, refusal) for row, refusal in new)
    waiting = sum(refusal.waits for _, refusal in bisection.refused)
    waiting += sum(earlier[_key_text(model, row.pk)][0].retry_at is not None for row in held_back)
    return Outcome(bisection.applied, len(bisection.refused) + len(held_back) - waiting, waiting)


def retry(parked: Iterable[ParkedWrite], using: str) -> Retried:
    """Retry parked writes. The writes of a row are retried from the oldest on, to keep their order.

    Args:
        parked: Some parked writes; all other parked writes of their rows are retried too.
        using: The database alias that they were read from.
    """
    retried = Retried()
    for label, keys in _keys_by_label((p.label, p.key) for p in parked).items():
        _retry_rows(label, keys, using, retried, together=1)
    return retried


def retry_waiting(using: str, *, due_only: bool = True) -> Retried:
    """Retry the parked writes that wait for another row or for a lock.

    Args:
        using: The alias of the database.
        due_only: Whether writes are left out whose next retry is later.
    """
    retried = Retried()
    waiting = _waiting(using, due_only=due_only).order_by("retry_at").values_list("label", "key")
    for label, keys in _keys_by_label(waiting[:ROWS_RETRIED]).items():
        _retry_rows(label, keys, using, retried, together=ROWS_LOCKED)
    return retried


def is_due(using: str) -> bool:
    """Return whether a parked write must be retried now."""
    return _waiting(using, due_only=True).exists()


def discard(parked: Iterable[ParkedWrite], using: str) -> int:
    """Delete parked writes without applying them; return their number.

    Writes that are parked behind a discarded one stay parked, and can be retried. A write to which a
    drain has added changes since it was read stays too.
    """
    seen = {write.pk: bytes(write.changes) for write in parked}
    with transaction.atomic(using=using):
        current = ParkedWrite.objects.using(using).filter(pk__in=seen).select_for_update().order_by("pk")
        equal = [write.pk for write in current if bytes(write.changes) == seen[write.pk]]
        return ParkedWrite.objects.using(using).filter(pk__in=equal).delete()[0]


def parked_of(rows: Rows, pk: Any, using: str) -> models.QuerySet[ParkedWrite]:
    """Return the parked writes of a row, the oldest first."""
    key = rows.row(pk)[:-1].decode()
    return ParkedWrite.objects.using(using).filter(label=rows.model._meta.label_lower, key=key)


def row_of(parked: ParkedWrite, model: type[models.Model]) -> BatchRow:
    """Return the row of a parked write, as its batch had it."""
    stored = ormsgpack.unpackb(bytes(parked.changes))
    pk = encoding_of(model._meta.pk).decode(parked.key.encode())
    changes = {} if stored["marker"] == b"x" else unpack_changes(model, stored)
    return BatchRow(pk, stored["marker"], changes)


def _lock_parked(
    model: type[models.Model], using: str, label: str, batch: Sequence[RowGroup]
) -> dict[str, list[ParkedWrite]]:
    """Return the parked writes of a batch's rows by key, locked until the end of the transaction."""
    of_label = ParkedWrite.objects.using(using).filter(label=label)
    if not of_label.exists():
        return {}
    keys = [_key_text(model, pk) for group in batch for pk in group.pks]
    return _by_key(of_label.filter(key__in=keys))


def _by_key(parked: models.QuerySet[ParkedWrite]) -> dict[str, list[ParkedWrite]]:
    """Lock parked writes and return them by key, the oldest of a row first."""
    by_key: dict[str, list[ParkedWrite]] = {}
    for write in parked.select_for_update().order_by("pk"):
        by_key.setdefault(write.key, []).append(write)
    return by_key


def _compose_with_last(
    model: type[models.Model], parked: Sequence[ParkedWrite], row: BatchRow
) -> ParkedWrite | None:
    """Add a row's write to the last of its parked writes and return that one; None if it must be parked."""
    composed = compose(row_of(parked[-1], model), row) if parked else None
    if composed is None:
        return None
    parked[-1].changes = _packed(model, composed)
    return parked[-1]


def _keys_by_label(rows: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for label, key in sorted(set(rows)):
        keys.setdefault(label, []).append(key)
    return keys


def _waiting(using: str, *, due_only: bool) -> models.QuerySet[ParkedWrite]:
    waiting = ParkedWrite.objects.using(using).filter(retry_at__isnull=False)
    return waiting.filter(retry_at__lte=Now()) if due_only else waiting


def _retry_rows(label: str, keys: Sequence[str], using: str, retried: Retried, *, together: int) -> None:
    """Retry the parked writes of rows, ``together`` rows at a time, one write of each row after the other."""
    for start in range(0, len(keys), together):
        unfinished = keys[start : start + together]
        while unfinished:
            with transaction.atomic(using=using):
                limit_times(using)
                unfinished = _retry_first(label, unfinished, using, retried)


def _retry_first(label: str, keys: Sequence[str], using: str, retried: Retried) -> list[str]:
    """Retry the first parked write of each row; return the keys of the rows whose write was applied."""
    model = model_named(label)
    parked = ParkedWrite.objects.using(using).filter(label=label)
    by_key = _by_key(parked.filter(key__in=keys))
    if model is None:
        gone = Refusal(f"{label!r} is not a model of this project; discard its writes.")
        applied, refused = Applied(), dict.fromkeys(by_key, gone)
    else:
        applied, refused = _apply_first(model, using, [writes[0] for writes in by_key.values()])
        invalidate_rows(model, applied.touched, using)
    done = [key for key in by_key if key not in refused]
    parked.filter(pk__in=[by_key[key][0].pk for key in done]).delete()
    # If this process ends now, the next writes of these rows are retried by themselves
    parked.filter(key__in=done).update(retry_at=Now())
    for key, refusal in refused.items():
        first = by_key[key][0]
        first.error = refusal.text
        first.save(using=using, update_fields=["error"])
        retried.remaining += by_key[key]
    waiting = [key for key, refusal in refused.items() if refusal.waits]
    parked.filter(key__in=refused.keys() - set(waiting)).update(retry_at=None)
    parked.filter(pk__in=[by_key[key][0].pk for key in waiting]).update(retry_at=_next_retry())
    retried.applied += len(done) - applied.missing
    retried.missing += applied.missing
    return done


def _apply_first(
    model: type[models.Model], using: str, parked: Sequence[ParkedWrite]
) -> tuple[Applied, dict[str, Refusal]]:
    """Apply one parked write of each row; return what was applied, and the refusals by key."""
    rows, refused = [], {}
    bisection = Bisection(model, using, f"{using} parked {[write.pk for write in parked]}")
    for write in parked:
        try:
            row = row_of(write, model)
        except Exception as error:  # noqa: BLE001  # the kind of the key may have changed since
            raise_interrupt(error)
            refused[write.key] = Refusal(f"The parked write cannot be read: {error}")
            continue
        if fault := bisection.version_fault(column for column, _ in row.changes):
            refused[write.key] = Refusal(fault, is_of_other_version=True)
        else:
            rows.append(row)
    bisection.apply(group_rows(rows))
    bisection.apply_refused_again()
    refused |= {_key_text(model, row.pk): refusal for row, refusal in bisection.refused}
    return bisection.applied, refused


def _next_retry() -> Any:
    """Return the SQL of the next retry: after as long as the write has waited, within limits."""
    waited = Greatest(Now() - F("created"), Value(FIRST_WAIT))
    return Now() + Least(waited, Value(LONGEST_WAIT))


def _key_text(model: type[models.Model], pk: Any) -> str:
    return encoding_of(model._meta.pk).encode(pk).decode()


def _packed(model: type[models.Model], row: BatchRow) -> bytes:
    return ormsgpack.packb({"marker": row.marker} | pack_changes(model, row.changes))


def _parked(
    model: type[models.Model], partition: Partition, number: int, row: BatchRow, refusal: Refusal
) -> ParkedWrite:
    return ParkedWrite(
        label=partition.label,
        partition=partition.number,
        batch=number,
        key=_key_text(model, row.pk),
        changes=_packed(model, row),
        error=refusal.text,
        retry_at=Now() + Value(FIRST_WAIT) if refusal.waits else None,
    )
