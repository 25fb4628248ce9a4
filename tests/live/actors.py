"""What the processes of the live checker do; each is spawned, and sets Django up first."""

from __future__ import annotations

import os
import random
import time

from django.core.cache import cache
from django.db import connection, transaction

from cachebackend import invalidation
from cachebackend.backend import ring_cache
from cachebackend.errors import RingCacheError
from cacheproject.demo.models import Article
from tests.live.ledger import Ledger

__all__ = ["make_rows", "read", "read_plain", "relay", "write", "write_plain"]


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


def write_plain(numbers: range, ledger: Ledger) -> None:
    """Set and delete keys that no model stands behind, and clear all of them now and then.

    Each is a write of the key's next version, after which nothing older is to be read there.
    """
    chance = random.Random(os.getpid())
    while True:
        number = chance.choice(numbers)
        written = range(number, number + 1)
        match chance.randrange(40):
            case 0:
                written = numbers
                cache.clear()
            case odd if odd % 2:
                cache.set(f"plain-{number}", ledger.acknowledged[number] + 1, None)
            case _:
                cache.delete(f"plain-{number}")
        for each in written:
            ledger.acknowledged_at[each] = time.monotonic()
            ledger.acknowledged[each] += 1
            ledger.written[each] += 1


def read_plain(me: int, numbers: range, ledger: Ledger) -> None:
    """Get such keys; what there is should be no older than what was acknowledged before."""
    chance, cell = random.Random(os.getpid()), ring_cache("default").client.counters.cell
    while True:
        number = chance.choice(numbers)
        known, since = ledger.acknowledged[number], ledger.acknowledged_at[number]
        seen = cache.get(f"plain-{number}")
        ledger.note_read(me, cell.near_hits)
        if seen is not None and seen < known:
            ledger.note_stale(me, since)


def read(me: int, keys: list[int], ledger: Ledger, strict: bool) -> None:
    """Read rows; each should be at least as new as what was acknowledged before the read began."""
    Article.cached.is_strict = strict
    chance, cell = random.Random(os.getpid()), ring_cache("default").client.counters.cell
    while True:
        number, pk = divmod(chance.choice(keys), 1_000_000)
        known, since = ledger.acknowledged[number], ledger.acknowledged_at[number]
        seen = Article.cached.get(pk=pk).views
        ledger.note_read(me, cell.near_hits)
        if seen < known:
            ledger.note_stale(me, since)


def relay(interval: float, ledger: Ledger) -> None:
    """Run the relay every so often; note the worst lag that it found."""
    while True:
        ledger.lag.value = max(ledger.lag.value, invalidation.relay().lag)
        connection.ensure_connection()
        time.sleep(interval)
