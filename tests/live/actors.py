"""What the processes of the live checker do; each is spawned, and sets Django up first."""

from __future__ import annotations

import math
import os
import random
import time

from django.db import connection, transaction

from cachebackend import invalidation
from cachebackend.errors import RingCacheError
from cacheproject.demo.models import Article
from tests.live.ledger import Ledger

__all__ = ["make_rows", "read", "relay", "write"]


def make_rows(count: int) -> list[int]:
    """Make rows anew, and return for each a key of its number (in millions) and its primary key."""
    Article.objects.filter(slug__startswith="live-").delete()
    made = Article.objects.bulk_create([Article(slug=f"live-{n}", title="x") for n in range(count)])
    return [number * 1_000_000 + article.pk for number, article in enumerate(made)]


def write(keys: list[int], ledger: Ledger, strict: bool) -> None:
    """Raise the version of rows that no other process writes, until killed."""
    Article.cached.is_strict = strict
    chance = random.Random(os.getpid())
    while True:
        at = chance.randrange(len(keys))
        number, pk = divmod(keys[at], 1_000_000)
        version = Article.objects.values_list("views", flat=True).get(pk=pk) + 1
        try:
            match chance.randrange(3):
                case 0:
                    Article.objects.filter(pk=pk).update(views=version)
                case 1:
                    Article(pk=pk, views=version).save(update_fields=["views"])
                case _:
                    with transaction.atomic():
                        Article(pk=pk, views=version).save(update_fields=["views"])
        except RingCacheError:
            continue  # a strict write whose node was away: refused, not acknowledged
        ledger.acknowledged_at[number] = time.monotonic()
        ledger.acknowledged[number] = version
        ledger.written[number] += 1


def read(me: int, keys: list[int], ledger: Ledger, strict: bool) -> None:
    """Read rows; each should be at least as new as what was acknowledged before the read began."""
    Article.cached.is_strict = strict
    chance = random.Random(os.getpid())
    while True:
        number, pk = divmod(chance.choice(keys), 1_000_000)
        known, since = ledger.acknowledged[number], ledger.acknowledged_at[number]
        seen = Article.cached.get(pk=pk).views
        ledger.read[me] += 1
        if seen < known:
            late = time.monotonic() - max(since, ledger.back_since.value or math.inf)
            ledger.stale[me] += 1
            ledger.worst_stale[me] = max(ledger.worst_stale[me], late)


def relay(interval: float, ledger: Ledger) -> None:
    """Run the relay every so often; note the worst lag that it found."""
    while True:
        ledger.lag.value = max(ledger.lag.value, invalidation.relay().lag)
        connection.ensure_connection()
        time.sleep(interval)
