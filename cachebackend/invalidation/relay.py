"""The relay: processes pending outbox rows, and deletes their keys until every node has confirmed.

In a page of rows, the values of all rows are deleted, and nodes cleared, before any tag is deleted;
``deletes`` says why. While a value is not confirmed, its row's tags are deleted once by each process
that relays, and then again after the value. A node that is down for long therefore does not make
every page a miss in every round.

A run ends after a while, however many rows there are, and the next run of the process continues where
it stopped. So the rows of a node that is down, which every run meets again, do not keep a run from the
rows behind them.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from django.db import DatabaseError, connections, transaction
from django.db.models import Q
from django.db.models.functions import Now

from cachebackend.clock import SYSTEM_CLOCK, LogRateLimit
from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.clears import clear_node, clear_tags, nodes_to_clear
from cachebackend.invalidation.deletes import delete_keys, values_and_tags
from cachebackend.invalidation.outbox import INTENT_SECONDS, delete_rows, write_row
from cachebackend.invalidation.outbox_databases import ask_databases, server_of
from cachebackend.invalidation.outbox_keys import OLDEST, RowKeys, pending_rows, read_row
from cachebackend.invalidation.outbox_pages import fetch_rows, page_keys
from cachebackend.invalidation.outbox_table import has_outbox
from cachebackend.invalidation.set_aside import set_aside
from cachebackend.invalidation.statement_outbox import OF_WRITER
from cachebackend.invalidation.watched import KeysByAlias, add_keys
from cachebackend.protocol.missed_deletes import SETTLING_SECONDS
from cachebackend.telemetry.heartbeat import record_run

__all__ = ["RELAY_TIMEOUT", "SETTLING_SECONDS", "RelayResult", "outbox_lag", "relay"]

logger = logging.getLogger("cachebackend")

#: Seconds that a run waits for the databases; shorter than the time limit of the task.
RELAY_TIMEOUT = 15.0
#: The part of that time in which a run begins another page.
_SHARE_OF_TIMEOUT = 0.6
#: The smallest primary key that a table can hold.
_BEFORE_ALL = -(2**63)
_failures_log: dict[str, LogRateLimit] = {}
#: By database, the primary keys of rows whose tags are deleted, and whose values are not confirmed.
_early_tags: defaultdict[str, set[int]] = defaultdict(set)
#: By database, the primary key after which the next run continues, if the last one did not reach the end.
_stopped_after: dict[str, int] = {}


@dataclass(slots=True)
class RelayResult:
    """What one run of the relay did, over all databases.

    Attributes:
        rows: Rows whose keys every node confirmed, and that were deleted.
        keys: Keys that were deleted on their nodes.
        pending: Rows that the next run must process again, without intents that it keeps for a minute.
        lag: Age of the oldest row that the run found, in seconds; 0.0 if it found none.
        failed: Why a database could not be processed, by alias.
        is_complete: Whether the run processed every row; if not, the next run continues.
    """

    rows: int = 0
    keys: int = 0
    pending: int = 0
    lag: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    is_complete: bool = True

    def add_run(self, later: RelayResult) -> None:
        """Add a later run: its counts are added, and what is left is what it has left."""
        self.rows += later.rows
        self.keys += later.keys
        self.lag = max(self.lag, later.lag)
        self.pending, self.failed, self.is_complete = later.pending, later.failed, later.is_complete


def relay(timeout: float = RELAY_TIMEOUT) -> RelayResult:
    """Process the outbox of every database. Any number of processes may run it at the same time.

    Args:
        timeout: The most seconds to wait. A run over many rows ends before. A database that has not
            answered until then is reported; its thread continues by itself.
    """
    record_run("relay")
    asked = ask_databases(partial(_process, seconds=timeout * _SHARE_OF_TIMEOUT), timeout)
    for using, error in asked.errors.items():
        _log_failure(using, error)
    result = RelayResult(failed={using: str(error) for using, error in asked.errors.items()})
    for each in asked.found.values():
        result.rows += each.rows
        result.keys += each.keys
        result.pending += each.pending
        result.lag = max(result.lag, each.lag)
        result.is_complete &= each.is_complete
    return result


def outbox_lag(using: str) -> float:
    """Return the age of a database's oldest pending row, in seconds; 0.0 if there is none.

    An intent, which an earlier release wrote, is stored for a minute in any case, and counts only after it.
    """
    # In the order of an index: an aggregate of the ages would read every row. A time before all possible
    # ones comes first and says nothing about an age
    is_young_intent = Q(is_intent=True, created__gt=Now() - timedelta(seconds=INTENT_SECONDS))
    rows = pending_rows(using).filter(~is_young_intent, created__gt=Now() - OLDEST).order_by("created")
    oldest: Any = rows.only("pk").first()
    return 0.0 if oldest is None else oldest.age.total_seconds()


def _log_failure(using: str, error: Exception) -> None:
    """Log that a database could not be processed; rate-limited, for the relay runs every second."""
    limit = _failures_log.setdefault(using, LogRateLimit(SYSTEM_CLOCK))
    if count := limit.to_log():
        is_expected = isinstance(error, DatabaseError | TimeoutError)
        logger.error(
            "the outbox of database %r could not be processed: %s",
            using,
            error,
            exc_info=None if is_expected else error,
            extra={"event": "outbox_failed", "database": using, "count": count, "error": str(error)},
        )


def _process(using: str, *, seconds: float = RELAY_TIMEOUT) -> RelayResult:
    """Process the outbox of one database; begin no other page after some seconds."""
    result = RelayResult()
    if not has_outbox(using) or server_of(using).is_read_only:
        return result
    result.lag = outbox_lag(using)
    deadline = SYSTEM_CLOCK.monotonic() + seconds
    pending: set[int] = set()
    last = start = _stopped_after.pop(using, _BEFORE_ALL)
    has_wrapped = start == _BEFORE_ALL
    while (following := _process_page(using, last, result, pending)) is not None or not has_wrapped:
        has_wrapped |= following is None
        last = _BEFORE_ALL if following is None else following
        if has_wrapped and last >= start > _BEFORE_ALL:
            break  # the rest was processed first
        if SYSTEM_CLOCK.monotonic() >= deadline:
            _stopped_after[using] = last
            result.is_complete = False
            return result
    _early_tags[using] &= pending
    return result


def _process_page(using: str, after: int, result: RelayResult, pending: set[int]) -> int | None:
    """Process the rows whose primary keys follow ``after``; return the last one, None if there was no row.

    The primary keys of the rows that remain are added to ``pending``.
    """
    skip_locked = connections[using].features.has_select_for_update_skip_locked
    # A young row is most likely being handled by its writer; a trigger's row is the relay's alone. The
    # time of a row may be nonsense: then its age is 0 for ever
    settling = timedelta(seconds=SETTLING_SECONDS)
    is_of_writer = Q(label="") | Q(transaction_id=OF_WRITER)
    is_young = is_of_writer & Q(created__gte=Now() - settling, created__lt=Now() + timedelta(minutes=1))
    following = pending_rows(using).filter(~is_young, pk__gt=after).order_by("pk")
    if not (keys := page_keys(following)):
        return None
    with _unflushed(using):
        rows = fetch_rows(following.select_for_update(skip_locked=skip_locked), keys)
        page = _Page(rows, _early_tags[using])
        confirmed = page.confirmed_rows()
        unreadable = [(row, error) for row in confirmed if (error := page.errors.get(row.pk))]
        covered = set_aside(using, unreadable)
        gone = {row.pk for row in confirmed if row.pk not in page.errors} | covered
        delete_rows(using, *gone)
        for alias, node in page.to_clear:
            write_row(using, {alias: []}, node=node)
    for row, error in unreadable:
        if row.pk not in covered:
            extra = {"event": "outbox_unreadable", "database": using, "error": error}
            logger.error(
                "an outbox row of database %r cannot be read and is set aside: %s", using, error, extra=extra
            )
    remaining = {row.pk for row in rows} - {row.pk for row in confirmed}
    result.rows += len(gone)
    result.pending += sum(row.pk in remaining and not _may_be_running(row) for row in rows)
    result.keys += page.deleted
    pending |= remaining
    return keys[-1]


@contextmanager
def _unflushed(using: str) -> Iterator[None]:
    """Begin a transaction that need not reach the disk: rows that a crash brings back are processed again.

    In a transaction of the caller nothing changes: its commit must reach the disk.
    """
    connection = connections[using]
    is_own = not connection.in_atomic_block
    with transaction.atomic(using=using):
        if is_own and connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL synchronous_commit TO off")
        yield


class _Page:
    """Some outbox rows, and the keys and nodes that were not confirmed when their deletes were sent.

    Args:
        rows: The rows, annotated with their ``age``.
        early_tags: The primary keys of rows whose tags were confirmed before their values; the page
            adds its own.

    Attributes:
        deleted: The number of keys of the rows that were confirmed.
        errors: Why rows cannot be read, by primary key.
        to_clear: Aliases and nodes whose unconfirmed keys are too many to list. A row for the whole
            node replaces the rows of these keys, so the outbox does not grow without limit.
    """

    def __init__(self, rows: Sequence[Any], early_tags: set[int]) -> None:
        read = [(row, found) for row in rows if (found := _read(row)) is not None]
        self.errors = {row.pk: found.error for row, found in read if found.error}
        self._node_rows = [(row, found.keys.keys()) for row, found in read if row.node]
        self._key_rows = [(row, *values_and_tags(found.keys)) for row, found in read if not row.node]
        self.deleted = 0
        self.to_clear: set[tuple[str, str]] = set()
        self._unconfirmed: KeysByAlias = {}
        self._delete(values for _, values, _ in self._key_rows)
        self._uncleared = self._clear_nodes()
        self._delete_tags(early_tags)
        for alias, unconfirmed in self._unconfirmed.items():
            nodes, self._unconfirmed[alias] = nodes_to_clear(alias, unconfirmed)
            self.to_clear.update((alias, node) for node in nodes)

    def _delete(self, groups: Iterable[KeysByAlias]) -> None:
        keys: KeysByAlias = {}
        for group in groups:
            add_keys(keys, group)
        unconfirmed = delete_keys(keys)
        add_keys(self._unconfirmed, unconfirmed)
        # The results of queries that a change makes wrong may be unconfirmed, too; no row has their keys
        self.deleted += sum(len(group - unconfirmed.get(alias, set())) for alias, group in keys.items())

    def _clear_nodes(self) -> set[tuple[str, str]]:
        """Clear the nodes that rows name; return the aliases and nodes that did not confirm.

        Which tags have pages that were made from a node's old values is not known, so all tags follow.
        """
        clears = {(alias, row.node) for row, aliases in self._node_rows for alias in aliases}
        uncleared = {(alias, node) for alias, node in clears if not clear_node(alias, node)}
        if uncleared != clears:
            self.to_clear |= clear_tags()
        return uncleared

    def _delete_tags(self, early_tags: set[int]) -> None:
        """Delete the tags of rows whose values are confirmed, and of other rows whose tags never were."""
        before = {row.pk for row, values, _ in self._key_rows if not self._are_confirmed(values)}
        self._delete(tags for row, _, tags in self._key_rows if row.pk not in before & early_tags)
        early_tags |= {row.pk for row, _, tags in self._key_rows if self._are_confirmed(tags)} & before

    def confirmed_rows(self) -> list[Any]:
        """Return the rows to delete: every node confirmed them, or another row covers them."""
        confirmed = [
            row
            for row, values, tags in self._key_rows
            if self._are_confirmed(values) and self._are_confirmed(tags) and not _may_be_running(row)
        ]
        uncleared = set(self._uncleared)
        for row, aliases in reversed(self._node_rows):
            pending = {(alias, row.node) for alias in aliases} & uncleared
            uncleared -= pending  # one row for each node and alias is enough
            if not pending:
                confirmed.append(row)
        return confirmed

    def _are_confirmed(self, keys: KeysByAlias) -> bool:
        if not self._unconfirmed:
            return True
        return not any(self._unconfirmed.get(alias, set()) & group for alias, group in keys.items())


def _read(row: Any) -> RowKeys | None:
    """Return what a row deletes; None if the database failed, and the row stays for the next run.

    A row that cannot be processed must not delay the others.

    Raises:
        DatabaseError: The connection is broken, so that no other row can be processed either.
    """
    try:
        return read_row(row)
    except DatabaseError as error:
        raise_interrupt(error)
        if not connections[row._state.db].is_usable():
            raise
        logger.exception("outbox row %s cannot be processed now", row.pk)
        return None


def _may_be_running(row: Any) -> bool:
    """Return whether the statement of an intent, which an earlier release wrote, may still be running."""
    return bool(row.is_intent and row.age.total_seconds() <= INTENT_SECONDS)
