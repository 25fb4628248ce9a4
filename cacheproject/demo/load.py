"""A load of readers and writers on the demo's articles, in threads, with exact counts."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from django.contrib.auth import get_user_model
from django.db import connection
from django.db.models import F
from django.utils import timezone

from cachebackend.errors import RingCacheError
from cacheproject.demo.models import Article

__all__ = ["LOGIN", "SLUG", "Counts", "Load", "seed"]

#: The prefix of the slugs of the load's own articles; visitors see the others.
SLUG = "load-"
ARTICLES = 500
VISITORS_ARTICLES = 60
LOGIN = "demo"
READERS, WRITERS = 3, 1
#: The share of a writer's turns that save the article instead of counting a view.
SAVE_SHARE = 0.05
#: Article k is read 1/k times as often as the first, as readers do (Zipf's law).
_WEIGHTS = [1 / (rank + 1) for rank in range(ARTICLES)]


def seed() -> None:
    """Create the articles again, and a login for the admin: user and password are ``demo``."""
    Article.objects.filter(slug__startswith=SLUG).delete()
    body = "A cache stores what was read close to its readers.\n\n" * 5
    Article.objects.bulk_create(
        [Article(slug=f"{SLUG}{n}", title=f"Load {n}", body=body, price=n) for n in range(ARTICLES)]
    )
    Article.objects.bulk_create(
        [
            Article(slug=f"article-{n:03}", title=f"Article {n}", body=body, price=n)
            for n in range(VISITORS_ARTICLES)
        ],
        ignore_conflicts=True,
    )
    users = get_user_model().objects
    if not users.filter(username=LOGIN).exists():
        users.create_superuser(LOGIN, "demo@example.invalid", LOGIN)


@dataclass
class Counts:
    """Counts of what the load has done so far.

    Attributes:
        reads: Articles read.
        saves: Articles saved, each invalidating its copy.
        writes: Views counted behind and acknowledged.
        errors: Operations that failed, and were not counted.
        views: Acknowledged views by primary key.
    """

    reads: int = 0
    saves: int = 0
    writes: int = 0
    errors: int = 0
    views: Counter[int] = field(default_factory=Counter)


class Load:
    """Threads that read and write until the block ends."""

    def __init__(self) -> None:
        self._keys = list(
            Article.objects.filter(slug__startswith=SLUG).order_by("pk").values_list("pk", "slug")
        )
        self._stop = threading.Event()
        self._by_thread = [Counts() for _ in range(READERS + WRITERS)]
        self._threads = [
            threading.Thread(target=self._run, args=(counts, number >= READERS, number))
            for number, counts in enumerate(self._by_thread)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def counts(self) -> Counts:
        """Return the counts of all threads so far."""
        total = Counts()
        for counts in self._by_thread:
            total.reads += counts.reads
            total.saves += counts.saves
            total.writes += counts.writes
            total.errors += counts.errors
        return total

    def views(self) -> Counter[int]:
        """Return the acknowledged views by primary key. Call it after the threads have ended."""
        return sum((counts.views for counts in self._by_thread), Counter())

    def _run(self, counts: Counts, writes: bool, seed_: int) -> None:
        generator = random.Random(seed_)  # noqa: S311  # a workload, not a secret
        try:
            for pk, slug in self._turns(generator):
                try:
                    if not writes:
                        Article.cached.get(slug=slug)
                        counts.reads += 1
                    elif generator.random() < SAVE_SHARE:
                        # update_fields: only the worker writes the views
                        Article(pk=pk, title=f"Load, revised {timezone.now():%H:%M:%S}").save(
                            update_fields=["title"]
                        )
                        counts.saves += 1
                    else:
                        Article.behind.update(pk, views=F("views") + 1, last_viewed=timezone.now())
                        counts.views[pk] += 1
                        counts.writes += 1
                except RingCacheError:
                    counts.errors += 1
        finally:
            connection.close()

    def _turns(self, generator: random.Random) -> Iterator[tuple[int, str]]:
        while not self._stop.is_set():
            yield from generator.choices(self._keys, _WEIGHTS, k=50)
            time.sleep(0)  # lets the thread that shows the counts run
