"""The cost of queueing one write, compared with other ways to write."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.goals import Goal, Measured
from benchmarks.herd import set_up
from benchmarks.rounds import one_core
from cacheproject.services import Services

__all__ = ["GOALS", "make_rows", "measure", "plain_rows"]

ROUNDS, CALLS = 9, 400
GOALS = (Goal("behind", "save", 8.0, "at_least"), Goal("behind", "upsert", 4.0, "at_least"))
UPSERT = (
    "INSERT INTO demo_article (id, slug, title, body, price, views, updated) "
    "VALUES (%s, %s, 't', '', 0, 1, now()) "
    "ON CONFLICT (id) DO UPDATE SET views = demo_article.views + 1"
)


def make_rows(count: int) -> list[int]:
    """Create the tables and ``count`` articles; return their keys."""
    from django.core.management import call_command

    from cacheproject.demo.models import Article

    call_command("migrate", verbosity=0, interactive=False)
    created = Article.objects.bulk_create(Article(slug=f"b{n}", title="t") for n in range(count))
    return [row.pk for row in created]


def plain_rows() -> Any:
    """Return a model of a copy of the articles' table, of which nothing is cached: no peer invalidates."""
    from django.db import connection, models

    from cachebackend import WriteBehindManager

    class PlainArticle(models.Model):  # noqa: DJ008  # never printed
        """An article as a project without this package defines it."""

        slug = models.SlugField(max_length=100, unique=True)
        title = models.CharField(max_length=200)
        body = models.TextField(blank=True)
        price = models.DecimalField(max_digits=8, decimal_places=2, default=0)
        views = models.BigIntegerField(default=0)
        last_viewed = models.DateTimeField(null=True)
        updated = models.DateTimeField(auto_now=True)

        objects = models.Manager()
        behind = WriteBehindManager["PlainArticle"](fields=["views"])

        class Meta:
            app_label = "demo"
            managed = False
            db_table = "plain_article"

    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE plain_article (LIKE demo_article INCLUDING ALL);"
            "INSERT INTO plain_article SELECT * FROM demo_article"
        )
    return PlainArticle


def enqueue(plain: Any, keys: list[int]) -> dict[str, list[float]]:
    """Return microseconds for one write of one row in each round, for each way to write."""
    import psycopg
    from django.conf import settings
    from django.db.models import F

    from cacheproject.demo.models import Article

    rows = {row.pk: row for row in plain.objects.filter(pk__in=keys)}
    cached = {row.pk: row for row in Article.objects.filter(pk__in=keys)}
    some = list(rows)
    database = settings.DATABASES["default"]
    with psycopg.connect(
        host=database["HOST"],
        port=database["PORT"],
        user=database["USER"],
        password=database["PASSWORD"],
        dbname=database["NAME"],
        autocommit=True,
        prepare_threshold=1,
    ) as connection:
        cursor = connection.cursor()
        ways: dict[str, Callable[[], Any]] = {
            "behind": lambda: [plain.behind.update(pk, views=F("views") + 1) for pk in some],
            "save": lambda: [rows[pk].save() for pk in some],
            "save, one field": lambda: [rows[pk].save(update_fields=["views"]) for pk in some],
            "save, invalidating": lambda: [cached[pk].save() for pk in some],
            "upsert": lambda: [cursor.execute(UPSERT, (pk, f"a{pk}")) for pk in some],
        }
        measured: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, run in ways.items():
                started = time.perf_counter()
                run()
                measured[way].append((time.perf_counter() - started) / len(some) * 1e6)
    return measured


def measure(*, quick: bool) -> Measured:
    """Measure each way to write in turns; a quick run is the same."""
    del quick
    with one_core(), Services(ring=3, queue=1, durable=True) as services:
        set_up(services)
        keys = make_rows(CALLS)
        measured = enqueue(plain_rows(), keys)
    ratios = {
        (goal.work, goal.compared_with): goal.ratios(measured[goal.work], measured[goal.compared_with])
        for goal in GOALS
    }
    return Measured(ratios, {"enqueue_us": {way: statistics.median(each) for way, each in measured.items()}})
