"""Outbox rows, read in pages that are limited in rows and in bytes.

Drivers keep all the rows that a statement returns in memory, and a row of the outbox may be long. So the
lengths are asked first, and then as many rows are fetched as fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db.models import QuerySet

from cachebackend.invalidation.outbox_keys import MAX_ROW_BYTES

__all__ = ["page_keys", "paged"]

#: The most rows of a page; one transaction of the relay locks and processes them.
ROWS_PER_PAGE = 500
#: The most bytes of a page, unless its only row is longer.
PAGE_BYTES = 16 * 1024**2


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
        yield from rows.filter(pk__in=keys)
        keys = page_keys(rows.filter(**{following: keys[-1]}))
