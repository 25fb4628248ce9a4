"""The database sessions that hold rows, or tables, which queued writes need.

A write that meets the lock of its row is set aside, and tried again at longer and longer intervals. A drain
that meets the lock of the whole table is tried again too. Between two tries nothing waits for the session
that holds the lock, so it is found by what it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connections, models, router, transaction
from django.db.models.expressions import RawSQL

from cachebackend.errors import WriteBehindDamagedError
from cachebackend.models import ParkedWrite
from cachebackend.protocol.queue import Partition
from cachebackend.writebehind.batch import decode_keys
from cachebackend.writebehind.encoding import encoding_of
from cachebackend.writebehind.limits import limit_locks
from cachebackend.writebehind.queue import model_named
from cachebackend.writebehind.sessions import Blocker, blockers_of, sessions

__all__ = ["RowLock", "row_locks"]

#: The most parked writes of a database whose rows are looked up, the oldest first.
MAX_WRITES = 1000
#: Milliseconds that the look-up waits for the lock of the table: no longer than for its answer.
WAIT_MS = 500
#: The modes of a table's lock that let no row of it be updated.
_WHOLE_TABLE = frozenset({"ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"})
#: The modes that a session has which has locked or written rows.
_SOME_ROWS = frozenset({"RowShareLock", "RowExclusiveLock"})
_TABLE_LOCKS = """
    SELECT l.pid, l.mode, a.xact_start FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.granted AND l.locktype = 'relation' AND l.relation = to_regclass(%s)::oid
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.pid <> pg_backend_pid()
"""
_TRANSACTIONS = "SELECT transactionid::text, pid FROM pg_locks WHERE locktype = 'transactionid' AND granted"


class _Write(NamedTuple):
    """A parked write that waits."""

    partition: Partition
    key: str
    created: datetime


@dataclass(frozen=True, slots=True)
class RowLock:
    """A session that holds rows which writes of a partition need.

    Attributes:
        partition: The partition.
        blocker: The session; one that waits for no other.
        writes: The number of parked writes that wait for it.
        parked_since: When the first of them was parked, by the database's clock; None if none is.
    """

    partition: Partition
    blocker: Blocker
    writes: int = 0
    parked_since: datetime | None = None


def row_locks(using: str, late: Iterable[Partition] = ()) -> list[RowLock]:
    """Return the sessions that hold rows which writes need; none if the database is not Postgres.

    Args:
        using: The alias of the database.
        late: Partitions that are not drained. For these, sessions count that hold the whole table.

    Raises:
        django.db.Error: The database did not answer.
    """
    if connections[using].vendor != "postgresql":
        return []
    late, writes = list(late), _waiting(using)
    labels = dict.fromkeys([*writes, *(partition.label for partition in late)])
    return [lock for label in labels for lock in _locks_of(using, label, writes.get(label, []), late)]


def _waiting(using: str) -> dict[str, list[_Write]]:
    """Return the parked writes that are tried again, by the label of their model."""
    waiting = ParkedWrite.objects.using(using).filter(retry_at__isnull=False).order_by("pk")
    found: dict[str, list[_Write]] = {}
    for label, number, key, created in waiting.values_list("label", "partition", "key", "created")[
        :MAX_WRITES
    ]:
        found.setdefault(label, []).append(_Write(Partition(label, number), key, created))
    return found


def _locks_of(using: str, label: str, writes: Sequence[_Write], late: Iterable[Partition]) -> list[RowLock]:
    model = model_named(label)
    if model is None or router.db_for_write(model) != using:
        return []
    with connections[using].cursor() as cursor:
        cursor.execute(_TABLE_LOCKS, [connections[using].ops.quote_name(model._meta.db_table)])
        held = cursor.fetchall()
        whole = {pid for pid, mode, _ in held if mode in _WHOLE_TABLE}
        some = {pid: began for pid, mode, began in held if mode in _SOME_ROWS}
        holders = dict.fromkeys(whole, writes) or (
            _holders(using, cursor, model, writes, some) if writes else {}
        )
        ends = blockers_of(using, cursor, holders)
        found = sessions(using, cursor, holders)
    locks = []
    for pid, own in holders.items():
        blockers = ends.get(pid) or ([found[pid]] if pid in found else [])
        if not blockers:
            continue
        needing = {each for each in late if each.label == label} if pid in whole else set()
        for partition in needing | {write.partition for write in own}:
            created = [write.created for write in own if write.partition == partition]
            locks.append(RowLock(partition, blockers[0], len(created), min(created, default=None)))
    return locks


def _holders(
    using: str,
    cursor: Any,
    model: type[models.Model],
    writes: Sequence[_Write],
    some: Mapping[int, datetime | None],
) -> Mapping[int, Sequence[_Write]]:
    """Return the sessions that hold rows, by their process IDs, each with the writes that need them.

    A row names the transaction that holds it, but not if that has locked it in a savepoint that is
    released, or if several transactions hold it. Then the session is named that alone has locked rows of the
    table since before the first write was parked.

    Args:
        using: The alias of the database.
        cursor: A cursor of it.
        model: The model of the writes.
        writes: The writes.
        some: The sessions that have locked or written rows of the table, and when their transactions began.
    """
    own = sessions(using, cursor, some)
    holders: dict[int, list[_Write]] = {}
    if own:
        pid_of = dict(_transactions(cursor))
        for key, transaction_id in _locked_rows(using, model, writes).items():
            pid = pid_of.get(transaction_id)
            if pid in own:
                holders.setdefault(pid, []).extend(write for write in writes if write.key == key)
    first = min(write.created for write in writes)
    older = [pid for pid in own if (began := some[pid]) is not None and began < first]
    return holders or (dict.fromkeys(older, writes) if len(older) == 1 else {})


def _transactions(cursor: Any) -> Iterable[tuple[str, int]]:
    """Return the transactions that run and have written, each with the process ID of its session."""
    cursor.execute(_TRANSACTIONS)
    return list(cursor.fetchall())


def _locked_rows(using: str, model: type[models.Model], writes: Sequence[_Write]) -> dict[str, str]:
    """Return the keys of rows, each with the transaction that last locked or changed it."""
    encoding = encoding_of(model._meta.pk)
    pks: dict[Any, str] = {}
    for write in writes:
        try:
            [pk] = decode_keys(encoding, [write.key.encode()])
        except WriteBehindDamagedError:
            continue
        pks[pk] = write.key
    table = connections[using].ops.quote_name(model._meta.db_table)
    rows: models.QuerySet[Any, Any] = models.QuerySet(model, using=using).filter(pk__in=pks)
    with transaction.atomic(using=using):
        limit_locks(using, WAIT_MS)
        holders = rows.annotate(holder=RawSQL(f"{table}.xmax::text", [])).values_list("pk", "holder")  # noqa: S611  # the name of a table
        return {pks[pk]: holder for pk, holder in holders}
