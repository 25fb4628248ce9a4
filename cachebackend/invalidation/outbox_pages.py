"""Outbox rows, read in pages that are limited in rows and in bytes.

Drivers keep all the rows that a statement returns in memory, and a row of the outbox may be long. So the
lengths are asked first, and then as many rows are fetched as fit.

A damaged row may make the statement fail that fetches its page. Such a page is halved until the row is
found, and the row is given with the error in place of its columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from django.db import InterfaceError, OperationalError
from django.db.models import QuerySet

from cachebackend.interrupts import raise_interrupt
from cachebackend.invalidation.outbox_keys import MAX_ROW_BYTES, savepoint
from cachebackend.models import OutboxRow

__all__ = ["fetch_rows", "page_keys", "paged"]

#: The most rows of a page; one transaction of the relay locks and processes them.
ROWS_PER_PAGE = 1_000
#: The most bytes of a page; at least two rows fit.
PAGE_BYTES = 16 * 1024**2
#: The class of SQLSTATE of an error of the row: a value or a result is too long for Postgres.
_LIMIT_EXCEEDED = "54"


def page_keys(rows: QuerySet[Any]) -> list[int]:
    """Return the primary keys of the first rows that fit into a page.

    Args:
        rows: Ordered rows of ``stored_rows``.
    """
    keys: list[int] = []
    length = 0
    for key, size in rows.values_list("pk", "size")[:ROWS_PER_PAGE]:
        length += size if size <= MAX_ROW_BYTES else 0  # no longer row is fetched
        if keys and length > PAGE_BYTES:
            break
        keys.append(key)
    return keys


def fetch_rows(rows: QuerySet[Any], keys: Sequence[int]) -> list[Any]:
    """Return the rows of a page; a row that cannot be fetched has the reason as its ``fault``.

    Args:
        rows: Ordered rows of ``stored_rows``.
        keys: Their primary keys.

    Raises:
        OperationalError, InterfaceError: The database failed.
    """
    try:
        with savepoint(rows.db):
            return list(rows.filter(pk__in=keys))
    except Exception as error:
        raise_interrupt(error)
        if _is_failure(error):
            raise
        middle = len(keys) // 2
        if middle:
            return fetch_rows(rows, keys[:middle]) + fetch_rows(rows, keys[middle:])
        return _without_columns(rows, keys[0], error)


def _is_failure(error: Exception) -> bool:
    """Return whether the database has failed, and not the statement because of a row."""
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    return not (getattr(error.__cause__, "sqlstate", None) or "").startswith(_LIMIT_EXCEEDED)


def _without_columns(rows: QuerySet[Any], key: int, error: Exception) -> list[Any]:
    """Return a row with an error in place of its columns; no row if it is locked or gone."""
    names = ["pk", "label", "node"]
    try:
        with savepoint(rows.db):
            found = list(rows.filter(pk=key).values(*names))
    except Exception as other:
        raise_interrupt(other)
        if _is_failure(other):
            raise
        found = [{"pk": key}]
    made: list[Any] = [OutboxRow(**columns) for columns in found]
    for row in made:
        row._state.db, row._state.adding = rows.db, False
        row.age, row.size, row.fault = timedelta(), 0, f"the row cannot be fetched: {error}"
    return made


def paged(rows: QuerySet[Any], *, newest_first: bool = False) -> Iterator[Any]:
    """Yield rows in the order of their primary keys, of which one page at a time is in memory.

    Args:
        rows: Rows of ``stored_rows``.
        newest_first: Whether the order is reversed.
    """
    order, following = ("-pk", "pk__lt") if newest_first else ("pk", "pk__gt")
    rows = rows.order_by(order)
    keys = page_keys(rows)
    while keys:
        yield from fetch_rows(rows, keys)
        keys = page_keys(rows.filter(**{following: keys[-1]}))
