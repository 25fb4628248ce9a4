"""The processes of the live checker; each is spawned, and sets Django up first."""

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
    """Create the rows again; return for each a key of its number (in millions) and its primary key."""
    Article.objects.filter(slug__startswith="live-").delete()
    created = Article.objects.bulk_create([Article(slug=f"live-{n}", title="x") for n in range(count)])
    return [number * 1_000_000 + article.pk for number, article in enumerate(created)]


def write(keys: list[int], ledger: Ledger, strict: bool) -> None:
    """Raise the version of rows that only this process writes, until killed."""
    Article.cached.is_strict = strict
    generator = random.Random(os.getpid())
    while True:
        index = generator.randrange(len(keys))
        number, pk = divmod(keys[index], 1_000_000)
        version = Article.objects.values_list("views", flat=True).get(pk=pk) + 1
        try:
            match generator.randrange(3):
                case 0:
                    Article.objects.filter(pk=pk).update(views=version)
                case 1:
                    Article(pk=pk, views=version).save(update_fields=["views"])
                case _:
                    with transaction.atomic():
                        Article(pk=pk, views=version).save(update_fields=["views"])
        except RingCacheError:
            continue  # a strict write whose node is down: it is refused, not acknowledged
        ledger.acknowledged_at[number] = time.monotonic()
        ledger.acknowledged[number] = version
        ledger.written[number] += 1


def write_plain(numbers: range, ledger: Ledger) -> None:
    """Set and delete keys without a model, and sometimes clear all of them.

    Each is a write of the key's next version, after which no older version may be read.
    """
    generator = random.Random(os.getpid())
    while True:
        number = generator.choice(numbers)
        written = range(number, number + 1)
        match generator.randrange(40):
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
    """Get keys without a model; a value must not be older than what was acknowledged before."""
    generator, cell = random.Random(os.getpid()), ring_cache("default").client.counters.cell
    while True:
        number = generator.choice(numbers)
        known, since = ledger.acknowledged[number], ledger.acknowledged_at[number]
        seen = cache.get(f"plain-{number}")
        ledger.record_read(me, cell.near_hits)
        if seen is not None and seen < known:
            ledger.record_stale(me, since)


def read(me: int, keys: list[int], ledger: Ledger, strict: bool) -> None:
    """Read rows; each must be at least as new as what was acknowledged before the read began."""
    Article.cached.is_strict = strict
    generator, cell = random.Random(os.getpid()), ring_cache("default").client.counters.cell
    while True:
        number, pk = divmod(generator.choice(keys), 1_000_000)
        known, since = ledger.acknowledged[number], ledger.acknowledged_at[number]
        seen = Article.cached.get(pk=pk).views
        ledger.record_read(me, cell.near_hits)
        if seen < known:
            ledger.record_stale(me, since)


def relay(interval: float, ledger: Ledger) -> None:
    """Run the relay every ``interval`` seconds; record the longest lag that it found."""
    while True:
        ledger.lag.value = max(ledger.lag.value, invalidation.relay().lag)
        connection.ensure_connection()
        time.sleep(interval)
