"""The processes of the list checker; each is spawned, and sets Django up first."""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from django.db import connection, transaction
from django.db.models import Count, Max, Sum
from django.test.utils import CaptureQueriesContext

from cachebackend.backend import ring_cache
from cacheproject.demo.models import Article
from tests.live.ledger import Ledger
from tests.live.lists import LISTS, Possible, list_of, title_of

__all__ = ["FIRST_PK", "make_rows", "read", "read_lists", "write"]

#: The primary key of the first row.
FIRST_PK = 1_000_000_000
#: The most seconds between two writes of a process, so that some reads are hits.
_PAUSE_SECONDS = 0.05
#: Seconds between two snapshots of what was acknowledged, and how many a reader keeps.
_SNAPSHOT_SECONDS, _SNAPSHOTS = 0.1, 300


def make_rows(count: int) -> None:
    """Create the rows again, each in its first version."""
    Article.objects.filter(pk__gte=FIRST_PK).delete()
    Article.objects.bulk_create([_row(number, 0) for number in range(count)])


def _row(number: int, version: int) -> Article:
    title = title_of(list_of(number, version) or 0)
    return Article(pk=FIRST_PK + number, slug=f"moving-{number}", title=title, views=version)


# Writers


def write(numbers: Sequence[int], ledger: Ledger) -> None:
    """Give rows that only this process writes their next versions, until killed.

    Some transactions are rolled back; their rows are in a list with a version below zero.
    """
    generator = random.Random(os.getpid())
    while True:
        chosen = generator.sample(list(numbers), generator.choice((1, 1, 1, 2)))
        ledger.begin(chosen)
        with transaction.atomic():
            if generator.random() < 0.2:
                _roll_back(chosen[0])
            for number in chosen:
                _write_row(generator, number, ledger.begun[number])
        ledger.acknowledge(chosen)
        time.sleep(generator.random() * _PAUSE_SECONDS)


def _write_row(generator: random.Random, number: int, version: int) -> None:
    """Give a row a version, in one of the ways: after a kill its version in the database is not known."""
    row, rows = _row(number, version), Article.objects.filter(pk=FIRST_PK + number)
    if list_of(number, version) is None:
        if generator.random() < 0.5:
            row.delete()
        else:
            rows.delete()
        return
    match generator.randrange(5):
        case 0:
            if not rows.update(title=row.title, views=version):
                row.save(force_insert=True)
        case 1:
            row.save()
        case 2:
            Article.objects.bulk_create(
                [row], update_conflicts=True, unique_fields=["id"], update_fields=["title", "views"]
            )
        case 3:
            Article.objects.update_or_create(pk=row.pk, defaults=_columns(row))
        case _:
            if rows.exists():
                Article.objects.bulk_update([row], ["title", "views"])
            else:
                row.save(force_insert=True)


def _columns(row: Article) -> dict[str, Any]:
    return {"title": row.title, "views": row.views, "slug": row.slug}


def _roll_back(number: int) -> None:
    """Move a row, read the lists, and roll back."""
    with transaction.atomic():
        Article.objects.filter(pk=FIRST_PK + number).update(title=title_of(number % LISTS), views=-1)
        _rows(number % LISTS)
        transaction.set_rollback(True)


# Readers

#: What a query has returned: whether versions of the rows allow it, and whether it can be committed.
_Answer: TypeAlias = tuple[Callable[[Possible], bool], bool]


def read(me: int, ledger: Ledger) -> None:
    """Read lists, counts and aggregates; each must fit what was acknowledged before the read began."""
    generator, cell = random.Random(os.getpid()), ring_cache("default").client.counters.cell
    snapshots: deque[tuple[float, list[int]]] = deque(maxlen=_SNAPSHOTS)
    while True:
        began, least = time.monotonic(), list(ledger.acknowledged)
        if not snapshots or began - snapshots[-1][0] > _SNAPSHOT_SECONDS:
            snapshots.append((began, least))
        with CaptureQueriesContext(connection) as statements:
            is_allowed, is_committed = generator.choice(WAYS)(generator.randrange(LISTS))
        most = list(ledger.begun)
        ledger.record_read(me, cell.near_hits)
        ledger.hits[me] += not statements
        if not is_committed:
            ledger.uncommitted[me] += 1
        elif not is_allowed(Possible(least, most)):
            ledger.record_stale(me, _stale_since(is_allowed, began, snapshots, most))


def _stale_since(
    is_allowed: Callable[[Possible], bool],
    began: float,
    snapshots: Sequence[tuple[float, list[int]]],
    most: list[int],
) -> float:
    """Return when the write was acknowledged that an answer lacks: after the newest snapshot it fits."""
    later = began
    for taken, least in reversed(snapshots):
        if is_allowed(Possible(least, most)):
            break
        later = taken
    return later


def _rows(number: int) -> _Answer:
    """The whole rows of a list, each from its own entry."""
    rows = Article.cached.filter(title=title_of(number)).order_by("-views", "pk")
    return _answer_of_rows(number, [(row.pk, row.views) for row in rows])


def _values(number: int) -> _Answer:
    rows = Article.cached.filter(title=title_of(number)).values_list("pk", "views")
    return _answer_of_rows(number, list(rows))


def _in_two_lists(number: int) -> _Answer:
    """The rows of a list, from a query over two lists."""
    titles = [title_of(number), title_of((number + 1) % LISTS)]
    rows = Article.cached.filter(title__in=titles).values_list("pk", "views", "title").order_by("pk")
    return _answer_of_rows(number, [(pk, views) for pk, views, title in rows if title == titles[0]])


def _from_all(number: int) -> _Answer:
    """The rows of a list, from a query over all rows."""
    rows = Article.cached.values_list("pk", "views", "title").order_by("-title", "pk")
    return _answer_of_rows(number, [(pk, views) for pk, views, title in rows if title == title_of(number)])


def _answer_of_rows(number: int, rows: Sequence[tuple[int, int]]) -> _Answer:
    found = {pk - FIRST_PK: views for pk, views in rows if pk >= FIRST_PK}
    is_committed = all(version >= 0 for version in found.values())
    return lambda possible: possible.allows_rows(number, found), is_committed


def _count(number: int) -> _Answer:
    count = Article.cached.filter(title=title_of(number)).count()
    return lambda possible: possible.allows_count(number, count), True


def _exists(number: int) -> _Answer:
    exists = Article.cached.filter(title=title_of(number)).exists()

    def is_allowed(possible: Possible) -> bool:
        counts = range(1, len(possible.least) + 1) if exists else (0,)
        return any(possible.allows_count(number, count) for count in counts)

    return is_allowed, True


def _sum(number: int) -> _Answer:
    total = Article.cached.filter(title=title_of(number)).aggregate(sum=Sum("views"))["sum"] or 0
    return lambda possible: possible.allows_sum(number, total), True


def _most(number: int) -> _Answer:
    version = Article.cached.filter(title=title_of(number)).aggregate(most=Max("views"))["most"]
    return lambda possible: possible.allows_most(number, version), version is None or version >= 0


def _first(number: int) -> _Answer:
    """The newest row of a list."""
    row = Article.cached.filter(title=title_of(number)).order_by("-views").first()
    version = row and row.views
    return lambda possible: possible.allows_most(number, version), version is None or version >= 0


def _groups(_: int) -> _Answer:
    """How many rows each list has, in one query."""
    rows = Article.cached.filter(pk__gte=FIRST_PK).values("title").annotate(n=Count("pk")).order_by("title")
    found = {int(row["title"].rpartition("-")[2]): row["n"] for row in rows}
    return lambda possible: possible.allows_counts(found), True


WAYS: Sequence[Callable[[int], _Answer]] = (
    _rows, _rows, _values, _in_two_lists, _from_all, _count, _count, _exists, _sum, _most, _first, _groups,
)  # fmt: skip


def read_lists(numbers: Sequence[int]) -> Iterator[tuple[Any, Any]]:
    """Yield what cached and plain lists have of some rows."""
    pks = {FIRST_PK + number for number in numbers}
    for number in range(LISTS):
        titled = {"title": title_of(number)}
        cached = Article.cached.filter(**titled).values_list("pk", "views").order_by("pk")
        plain = Article.objects.filter(**titled).values_list("pk", "views").order_by("pk")
        yield [row for row in cached if row[0] in pks], [row for row in plain if row[0] in pks]
