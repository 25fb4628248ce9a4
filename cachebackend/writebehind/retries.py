"""Retries of parked writes: by a person, and by themselves for those that wait.

The writes of a row are retried one after the other, in their order. A row may wait for another one of
those that are retried, so the rows that are left are retried again while that applies any; those that
refer to each other are then written together (``cycles``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import Error, IntegrityError, connections, models
from django.db.models import Case, F, Value, When
from django.db.models.functions import Now

from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation import invalidate_rows
from cachebackend.models import ParkedWrite
from cachebackend.writebehind.apply import Applied
from cachebackend.writebehind.backoff import is_unreachable
from cachebackend.writebehind.batch import BatchRow, group_rows
from cachebackend.writebehind.bisection import Bisection
from cachebackend.writebehind.cycles import RowName, find_cycles, referred_rows
from cachebackend.writebehind.parked import FIRST_WAIT, lock_by_key, row_of
from cachebackend.writebehind.queue import model_named
from cachebackend.writebehind.refusals import REFERENCE, Refusal
from cachebackend.writebehind.remembered_queries import RememberedQuery
from cachebackend.writebehind.transactions import limited_transaction

__all__ = ["Retried", "is_due", "retry", "retry_all_waiting", "retry_waiting"]

logger = logging.getLogger("cachebackend")
#: The longest time until a waiting write is retried again.
LONGEST_WAIT = timedelta(seconds=60)
#: How often the rows that are left are retried while other rows are applied.
_ROUNDS = 20
#: Rows that are retried by themselves in one transaction: few, so that drains of them wait only briefly.
ROWS_LOCKED = 100
#: Rows that one call retries by itself, so that every task ends.
ROWS_RETRIED = 1000


@dataclass(slots=True)
class Retried:
    """The result of retrying parked writes.

    Attributes:
        applied: The number of writes that were applied.
        missing: The number of writes whose rows do not exist any more; they are no longer parked.
        remaining: The writes that are still parked: those that were refused again or could not be
            retried, with the new error; those behind them; and those of a model that the project no
            longer has.
        referring: Those of them that were refused because of a reference.
    """

    applied: int = 0
    missing: int = 0
    remaining: list[ParkedWrite] = field(default_factory=list)
    referring: list[ParkedWrite] = field(default_factory=list)

    @property
    def done(self) -> int:
        """The number of writes that are no longer parked."""
        return self.applied + self.missing

    def add(self, other: Retried) -> None:
        """Add the result of retrying other writes."""
        self.applied += other.applied
        self.missing += other.missing
        self.remaining += other.remaining
        self.referring += other.referring


def retry(parked: Iterable[ParkedWrite], using: str) -> Retried:
    """Retry parked writes. The writes of a row are retried from the oldest on, to keep their order.

    A row that cannot be retried does not stop the others.

    Args:
        parked: Some parked writes; all other parked writes of their rows are retried too.
        using: The database alias that they were read from.

    Raises:
        django.db.Error: The database is unreachable.
    """
    return _retry_rounds(((p.label, p.key) for p in parked), using, together=1)


def retry_waiting(using: str, *, due_only: bool = True) -> Retried:
    """Retry the parked writes that wait for another row or for a lock.

    Args:
        using: The alias of the database.
        due_only: Whether writes are left out whose next retry is later.

    Raises:
        django.db.Error: The database is unreachable.
    """
    waiting = _waiting(using, due_only=due_only).order_by("retry_at").values_list("label", "key")
    return _retry_rounds(waiting[:ROWS_RETRIED], using, together=ROWS_LOCKED)


def retry_all_waiting(using: str) -> Iterator[Retried]:
    """Retry all the parked writes that wait, whether they are due or not; yield the result of some at a time.

    Those that cannot be applied keep none of the others from being tried.

    Args:
        using: The alias of the database.

    Raises:
        django.db.Error: The database is unreachable.
    """
    waiting = _waiting(using, due_only=False).order_by("pk").values_list("pk", "label", "key")
    last = 0
    while rows := list(waiting.filter(pk__gt=last)[:ROWS_RETRIED]):
        last = rows[-1][0]
        yield _retry_rounds([(label, key) for _, label, key in rows], using, together=ROWS_LOCKED)


def is_due(using: str) -> bool:
    """Return whether a parked write must be retried now."""
    return bool(_DUE.rows(using))


def _keys_by_label(rows: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for label, key in sorted(set(rows)):
        keys.setdefault(label, []).append(key)
    return keys


def _waiting(using: str, *, due_only: bool) -> models.QuerySet[ParkedWrite]:
    waiting = ParkedWrite.objects.using(using).filter(retry_at__isnull=False)
    return waiting.filter(retry_at__lte=Now()) if due_only else waiting


_DUE = RememberedQuery(lambda using: _waiting(using, due_only=True).values_list("pk")[:1])


def _retry_rounds(rows: Iterable[tuple[str, str]], using: str, *, together: int) -> Retried:
    """Retry the parked writes of rows; those that are left again, while that applies any.

    A row may wait for another one of them, in any order, or for each other.
    """
    retried = Retried()
    for _ in range(_ROUNDS):
        before, retried.remaining, retried.referring = retried.done, [], []
        for label, keys in _keys_by_label(rows).items():
            _retry_rows(label, keys, using, retried, together=together)
        if retried.done == before:
            for cycle in find_cycles(_references(retried.referring)):
                _retry_cycle(cycle, using, retried)
        if retried.done == before or not retried.remaining:
            break
        rows = [(write.label, write.key) for write in retried.remaining]
    return retried


def _references(writes: Iterable[ParkedWrite]) -> dict[RowName, list[RowName]]:
    """Return the rows of some writes, each with the rows to which it refers."""
    references: dict[RowName, list[RowName]] = {}
    deleted: list[RowName] = []
    for write in writes:
        model = model_named(write.label)
        row = row_of(write, model) if model else None
        if row and model:
            references[write.label, write.key] = referred_rows(model, row)
            deleted += [(write.label, write.key)] if row.marker == b"x" else []
    # Which rows still refer to a deleted one is not known: it may be any other deleted one
    return references | {name: [deleted[index - 1]] for index, name in enumerate(deleted)}


def _retry_cycle(rows: Sequence[RowName], using: str, retried: Retried) -> None:
    """Retry the first parked writes of rows that refer to each other, all or none.

    Postgres checks the references when all are written, so none of them has to be the first one.
    """
    together = Retried()
    try:
        with limited_transaction(using):
            for label, keys in _keys_by_label(rows).items():
                _retry_first(label, keys, using, together, is_deferred=True)
            with connections[using].cursor() as cursor:
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except IntegrityError as error:  # one of them refers to yet another row
        raise_interrupt(error)
        return
    retried.applied += together.applied
    retried.missing += together.missing


def _retry_rows(label: str, keys: Sequence[str], using: str, retried: Retried, *, together: int) -> None:
    """Retry the parked writes of rows, ``together`` rows at a time, one write of each row after the other.

    A transaction that fails is retried with each of its rows by itself: its error may be of one row only.
    """
    for start in range(0, len(keys), together):
        unfinished = keys[start : start + together]
        while unfinished:
            done = Retried()
            try:
                with limited_transaction(using):
                    applied = _retry_first(label, unfinished, using, done)
            except Exception as error:
                raise_interrupt(error)
                if is_unreachable(using, error):
                    raise
                if len(unfinished) > 1:
                    _retry_rows(label, unfinished, using, retried, together=1)
                else:
                    retried.remaining += _put_off(label, unfinished[0], using, error)
                break
            retried.add(done)
            unfinished = applied


def _put_off(label: str, key: str, using: str, error: Exception) -> list[ParkedWrite]:
    """Store why the writes of a row could not be retried, and the time of their next retry; return them."""
    logger.error("the parked writes of %s %s cannot be retried: %s", label, key, error)
    writes = list(ParkedWrite.objects.using(using).filter(label=label, key=key).order_by("pk"))
    for first in writes[:1]:
        first.error = str(error).strip() or type(error).__name__
        own = ParkedWrite.objects.using(using).filter(pk=first.pk)
        try:
            with limited_transaction(using):
                own.update(error=first.error)
                own.filter(retry_at__isnull=False).update(retry_at=_next_retry())
        except Error as own_error:  # the write may be locked
            raise_interrupt(own_error)
    return writes


def _retry_first(
    label: str, keys: Sequence[str], using: str, retried: Retried, *, is_deferred: bool = False
) -> list[str]:
    """Retry the first parked write of each row; return the keys of the rows whose write was applied."""
    model = model_named(label)
    parked = ParkedWrite.objects.using(using).filter(label=label)
    by_key = lock_by_key(parked.filter(key__in=keys))
    if model is None:
        gone = Refusal(f"{label!r} is not a model of this project; discard its writes.")
        applied, refused = Applied(), dict.fromkeys(by_key, gone)
    else:
        applied, refused = _apply_first(
            model, using, [writes[0] for writes in by_key.values()], is_deferred=is_deferred
        )
        invalidate_rows(applied.changes, using)
    done = [key for key in by_key if key not in refused]
    parked.filter(pk__in=[by_key[key][0].pk for key in done]).delete()
    # If this process ends now, the next writes of these rows are retried by themselves
    parked.filter(key__in=done).update(retry_at=Now())
    for key, refusal in refused.items():
        first = by_key[key][0]
        first.error = refusal.text
        first.save(using=using, update_fields=["error"])
        retried.remaining += by_key[key]
        retried.referring += [first] if refusal.sqlstate == REFERENCE else []
    waiting = _waiting_keys(parked, refused)
    parked.filter(key__in=refused.keys() - set(waiting)).update(retry_at=None)
    parked.filter(pk__in=[by_key[key][0].pk for key in waiting]).update(retry_at=_next_retry())
    retried.applied += len(done) - applied.missing
    retried.missing += applied.missing
    return done


def _waiting_keys(parked: models.QuerySet[ParkedWrite], refused: Mapping[str, Refusal]) -> list[str]:
    """Return the keys of refused rows that are retried by themselves."""
    waiting: list[str] = []
    for patience in {refusal.patience for refusal in refused.values() if refusal.waits}:
        keys = [key for key, refusal in refused.items() if refusal.patience == patience]
        if patience < timedelta.max:
            old = parked.filter(key__in=keys, created__lte=Now() - Value(patience))
            ended = set(old.values_list("key", flat=True))
            keys = [key for key in keys if key not in ended]
        waiting += keys
    return waiting


def _apply_first(
    model: type[models.Model], using: str, parked: Sequence[ParkedWrite], *, is_deferred: bool
) -> tuple[Applied, dict[str, Refusal]]:
    """Apply one parked write of each row; return what was applied, and the refusals by key."""
    rows: dict[str, BatchRow] = {}
    refused: dict[str, Refusal] = {}
    name = f"{using} parked {[write.pk for write in parked]}"
    bisection = Bisection(model, using, name, is_deferred=is_deferred)
    for write in parked:
        try:
            row = row_of(write, model)
        except Exception as error:  # noqa: BLE001  # the kind of the key may have changed since
            raise_interrupt(error)
            refused[write.key] = Refusal(f"The parked write cannot be read: {error}")
            continue
        if fault := bisection.version_fault(column for column, _ in row.changes):
            refused[write.key] = Refusal(fault, is_of_table=True)
        else:
            rows[write.key] = row
    bisection.apply(group_rows(rows.values()))
    bisection.apply_refused_again()
    keys = {row.pk: key for key, row in rows.items()}
    refused |= {keys[row.pk]: refusal for row, refusal in bisection.refused}
    return bisection.applied, refused


def _next_retry() -> Any:
    """Return the SQL of the next retry: after as long as the write has waited, within limits.

    The time at which it was parked may be infinite, and is only subtracted if it is not.
    """
    wait = Case(
        When(created__lt=Now() - Value(LONGEST_WAIT), then=Value(LONGEST_WAIT)),
        When(created__lt=Now() - Value(FIRST_WAIT), then=Now() - F("created")),
        default=Value(FIRST_WAIT),
        output_field=models.DurationField(),
    )
    return Now() + wait
