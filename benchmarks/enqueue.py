"""The cost of queueing one write, compared with other ways to write, in one run.

``python -m benchmarks.enqueue`` prints a table; ``--json`` one object. Exits with 1 if a ratio is
below what is required.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.herd import set_up
from benchmarks.rounds import one_core
from cacheproject.services import Services

__all__ = ["make_rows", "plain_rows"]

ROUNDS, CALLS = 9, 400
#: How many times faster queueing must be than each of these.
REQUIRED = {"save": 8.0, "upsert": 4.0}
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
    """Return a model of the articles' table without cached managers, because the peers do not invalidate."""
    from django.db import models

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
            db_table = "demo_article"

    return PlainArticle


def enqueue(plain: Any, keys: list[int]) -> dict[str, float]:
    """Return microseconds for one write of one row, for each way to write; they are measured in turns."""
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
    return {way: statistics.median(each) for way, each in measured.items()}


def main() -> None:
    """Measure, print, and exit with 0 if the ratios meet the requirements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    with one_core(), Services(ring=3, queue=1, durable=True) as services:
        set_up(services)
        keys = make_rows(CALLS)
        measured = enqueue(plain_rows(), keys)
    times = {way: measured[way] / measured["behind"] for way in REQUIRED}
    missed = [
        f"{way}: {times[way]:.1f} times, not {least:g}"
        for way, least in REQUIRED.items()
        if times[way] < least
    ]
    results = {
        "enqueue_us": {way: round(each, 1) for way, each in measured.items()},
        "times_faster_than": {way: round(each, 1) for way, each in times.items()},
        "missed": missed,
    }
    if options.json:
        print(json.dumps(results))
    else:
        for name, value in results.items():
            print(f"{name:24} {value}")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
