"""Waits until the workers have drained the queue, and compares Postgres with what was written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from django.db.models import Sum

from cachebackend import writebehind
from cachebackend.models import WriteBehindCheckpoint
from cacheproject.demo.models import Article

__all__ = ["NotDrainedError", "differing_rows", "drained_rows", "wait_until_drained"]

POLL_SECONDS = 0.1
#: If no row is drained for this many seconds, no worker is running.
STUCK_SECONDS = 60.0


class NotDrainedError(Exception):
    """Writes are queued and no worker drains them."""


def drained_rows() -> int:
    """Return the number of rows that drains have changed since the tables were created."""
    return WriteBehindCheckpoint.objects.aggregate(rows=Sum("rows"))["rows"] or 0


def wait_until_drained(on_progress: Callable[[int], None]) -> None:
    """Return once no write is queued.

    Args:
        on_progress: Called regularly with the number of partitions that still hold writes.

    Raises:
        NotDrainedError: No row was drained for a minute.
    """
    rows, since = drained_rows(), time.monotonic()
    while dirty := len(writebehind.dirty_partitions()):
        on_progress(dirty)
        time.sleep(POLL_SECONDS)
        if (rows_now := drained_rows()) != rows:
            rows, since = rows_now, time.monotonic()
        elif time.monotonic() - since > STUCK_SECONDS:
            message = (
                f"{dirty} partitions hold writes and no row was drained in {STUCK_SECONDS:g} s; "
                "check that a worker is running"
            )
            raise NotDrainedError(message)


def differing_rows(views: Mapping[int, int], slug_prefix: str) -> int:
    """Return the number of articles whose stored views differ from those that were counted.

    Args:
        views: The acknowledged views by primary key; articles that are not in it have 0.
        slug_prefix: The prefix of the slugs of the articles to compare.
    """
    rows = Article.objects.filter(slug__startswith=slug_prefix).values_list("pk", "views")
    return sum(views.get(pk, 0) != stored for pk, stored in rows.iterator())
