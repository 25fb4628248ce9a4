"""Waits for the worker to land what was written, and holds Postgres against it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from django.db.models import Sum

from cachebackend import writebehind
from cachebackend.models import WriteBehindCheckpoint
from cacheproject.demo.models import Article

__all__ = ["LandingError", "await_landing", "differing_rows", "landed_rows"]

LOOK_SECONDS = 0.1
#: Without any row landing for so long, the worker is taken for dead.
STUCK_SECONDS = 60.0


class LandingError(Exception):
    """Writes wait in the queue and no worker lands them."""


def landed_rows() -> int:
    """Return how many rows the drains have changed since the tables were made."""
    return WriteBehindCheckpoint.objects.aggregate(rows=Sum("rows"))["rows"] or 0


def await_landing(tell: Callable[[int], None]) -> None:
    """Return once no write waits in the queue.

    Args:
        tell: Called now and then with how many partitions still hold writes.

    Raises:
        LandingError: Nothing landed for a minute.
    """
    landed, since = landed_rows(), time.monotonic()
    while waiting := len(writebehind.dirty_partitions()):
        tell(waiting)
        time.sleep(LOOK_SECONDS)
        if (now_landed := landed_rows()) != landed:
            landed, since = now_landed, time.monotonic()
        elif time.monotonic() - since > STUCK_SECONDS:
            message = (
                f"{waiting} partitions hold writes and none landed in {STUCK_SECONDS:g} s; is a worker up?"
            )
            raise LandingError(message)


def differing_rows(views: Mapping[int, int], slugs: str) -> int:
    """Return how many articles do not have exactly the views that were counted.

    Args:
        views: What was acknowledged, by primary key; 0 for those that are not named.
        slugs: How the slugs of the articles that are looked at begin.
    """
    rows = Article.objects.filter(slug__startswith=slugs).values_list("pk", "views")
    return sum(views.get(pk, 0) != stored for pk, stored in rows.iterator())
