"""A load of readers and writers on the demo's articles, in threads, counted exactly."""

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

__all__ = ["LOGIN", "SLUG", "Figures", "Load", "seed"]

#: How the slugs of the load's own articles begin; visitors are shown the others.
SLUG = "load-"
ARTICLES = 500
VISITORS_ARTICLES = 60
LOGIN = "demo"
READERS, WRITERS = 3, 1
#: Of a writer's turns, so many save the article instead of counting a view.
SAVE_SHARE = 0.05
#: The k-th article is asked for 1/k as often as the first, as readers do (Zipf's law).
_WEIGHTS = [1 / (rank + 1) for rank in range(ARTICLES)]


def seed() -> None:
    """Make the articles anew, and a login for the admin: user and password are ``demo``."""
    Article.objects.filter(slug__startswith=SLUG).delete()
    body = "A cache keeps what was read near who reads it.\n\n" * 5
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
class Figures:
    """What the load has done so far.

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
    """Threads that read and write until they are told to stop."""

    def __init__(self) -> None:
        self._keys = list(
            Article.objects.filter(slug__startswith=SLUG).order_by("pk").values_list("pk", "slug")
        )
        self._end = threading.Event()
        self._own = [Figures() for _ in range(READERS + WRITERS)]
        self._threads = [
            threading.Thread(target=self._run, args=(figures, number >= READERS, number))
            for number, figures in enumerate(self._own)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def figures(self) -> Figures:
        """Return what all threads have done so far."""
        total = Figures()
        for own in self._own:
            total.reads += own.reads
            total.saves += own.saves
            total.writes += own.writes
            total.errors += own.errors
        return total

    def views(self) -> Counter[int]:
        """Return the acknowledged views by primary key; to be called when the threads have ended."""
        return sum((own.views for own in self._own), Counter())

    def _run(self, figures: Figures, writes: bool, seed_: int) -> None:
        chance = random.Random(seed_)  # noqa: S311  # a workload, not a secret
        try:
            for pk, slug in self._turns(chance):
                try:
                    if not writes:
                        Article.cached.get(slug=slug)
                        figures.reads += 1
                    elif chance.random() < SAVE_SHARE:
                        # update_fields: the views are the worker's to write
                        Article(pk=pk, title=f"Load, revised {timezone.now():%H:%M:%S}").save(
                            update_fields=["title"]
                        )
                        figures.saves += 1
                    else:
                        Article.behind.update(pk, views=F("views") + 1, last_viewed=timezone.now())
                        figures.views[pk] += 1
                        figures.writes += 1
                except RingCacheError:
                    figures.errors += 1
        finally:
            connection.close()

    def _turns(self, chance: random.Random) -> Iterator[tuple[int, str]]:
        while not self._end.is_set():
            yield from chance.choices(self._keys, _WEIGHTS, k=50)
            time.sleep(0)  # lets the thread that draws the figures have its turn
