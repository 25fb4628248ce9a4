"""The processes of the live checker; each is spawned, and sets Django up first."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

from django.core.cache import cache
from django.db import connection, transaction

from cachebackend import cached, invalidation
from cachebackend.backend import ring_cache
from cachebackend.errors import RingCacheError
from cacheproject.demo.models import Article
from tests.live.ledger import Ledger

__all__ = ["make_rows", "read", "read_plain", "relay", "ways_to_read", "write", "write_plain"]


def make_rows(count: int) -> list[int]:
    """Create the rows again; return for each a key of its number (in millions) and its primary key."""
    Article.objects.filter(slug__startswith="live-").delete()
    created = Article.objects.bulk_create([Article(slug=f"live-{n}", title="x") for n in range(count)])
    return [number * 1_000_000 + article.pk for number, article in enumerate(created)]


def write(keys: list[int], ledger: Ledger, strict: bool, raw: bool) -> None:
    """Raise the version of rows that only this process writes, until killed.

    With ``raw``, by SQL too, which only triggers on the table notice. A transaction that is rolled back
    writes a version below zero, which nobody may ever read.
    """
    Article.cached.is_strict = strict
    if raw:
        from cachebackend.invalidation.triggers import add_triggers  # it needs django-pgtrigger

        add_triggers(Article)
    generator = random.Random(os.getpid())
    rows = Article._base_manager
    while True:
        index = generator.randrange(len(keys))
        number, pk = divmod(keys[index], 1_000_000)
        version = rows.values_list("views", flat=True).get(pk=pk) + 1
        try:
            match generator.randrange(6 + raw):
                case 0:
                    Article.objects.filter(pk=pk).update(views=version)
                case 1:
                    Article(pk=pk, views=version).save(update_fields=["views"])
                case 2:
                    rows.filter(pk=pk).update(views=version)
                case 3:
                    rows.bulk_update([Article(pk=pk, views=version)], ["views"])
                case 4:
                    _roll_back(pk, version)
                    continue
                case 5:
                    with transaction.atomic():
                        Article(pk=pk, views=version).save(update_fields=["views"])
                        _roll_back(pk, version)
                case _:
                    with connection.cursor() as cursor:
                        cursor.execute("UPDATE demo_article SET views = %s WHERE id = %s", [version, pk])
        except RingCacheError:
            continue  # a strict write whose node is down: it is refused, not acknowledged
        ledger.acknowledged_at[number] = time.monotonic()
        ledger.acknowledged[number] = version
        ledger.written[number] += 1


def _roll_back(pk: int, version: int) -> None:
    """Write a version below zero, read it through the ring, and roll back."""
    with transaction.atomic():
        Article(pk=pk, views=-version).save(update_fields=["views"])
        Article.cached.get(pk=pk)
        transaction.set_rollback(True)


def write_plain(numbers: range, ledger: Ledger) -> None:
    """Set and delete keys without a model, and sometimes clear all of them.

    Each is a write of the key's next version, after which no older version may be read. All keys are
    cleared rarely: rows are cleared too, and a row that is never cached is never stale.
    """
    generator = random.Random(os.getpid())
    while True:
        number = generator.choice(numbers)
        written = range(number, number + 1)
        match generator.randrange(30_000):
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
    """Read rows and pages; each must be at least as new as what was acknowledged before the read began."""
    Article.cached.is_strict = strict
    weights = ways_to_read(strict)
    reads = [way for way, weight in weights.items() for _ in range(weight)]
    generator, cell = random.Random(os.getpid()), ring_cache("default").client.counters.cell
    while True:
        number, pk = divmod(generator.choice(keys), 1_000_000)
        known, since = ledger.acknowledged[number], ledger.acknowledged_at[number]
        seen = generator.choice(reads)(pk)
        ledger.record_read(me, cell.near_hits)
        if seen < 0:
            ledger.uncommitted[me] += 1
        elif seen < known:
            ledger.record_stale(me, since)


def ways_to_read(strict: bool) -> dict[Callable[[int], int], int]:
    """Return functions that read the version of a row through the ring, and how often each is used.

    They read pages if rows are not strict: a tag is deleted after the commit in any mode. A value that
    depends on all rows is read rarely, because most reads of it load it.
    """
    of_rows = {_row: 8, _row_of_many: 4}
    return of_rows if strict else of_rows | {_page: 4, _version_of_many: 1}


def _row(pk: int) -> int:
    return Article.cached.get(pk=pk).views


def _row_of_many(pk: int) -> int:
    return Article.cached.in_bulk([pk])[pk].views


@cached(tags=lambda pk: [Article(pk=pk)])
def _page(pk: int) -> int:
    """Return the version that a page shows, which is made of a cached row."""
    return Article.cached.get(pk=pk).views


def _version_of_many(pk: int) -> int:
    """Return a row's version in a value that depends on all rows."""
    return int(cache.get_or_set("live-versions", _load_versions, tags=[Article])[pk])


def _load_versions() -> dict[int, int]:
    return dict(Article._base_manager.filter(slug__startswith="live-").values_list("pk", "views"))


def relay(interval: float, ledger: Ledger) -> None:
    """Run the relay every ``interval`` seconds; record the longest lag that it found."""
    while True:
        ledger.lag.value = max(ledger.lag.value, invalidation.relay().lag)
        connection.ensure_connection()
        time.sleep(interval)
