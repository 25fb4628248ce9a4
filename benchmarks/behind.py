"""What write-behind costs and gains: queueing and draining beside what people do today, in one run.

``python -m benchmarks.behind`` prints a table; ``--json`` one object; ``--outage SECONDS``
stops Postgres for so long under load instead. Exits with 1 if a ratio is below what is required.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.herd import set_up
from cacheproject.services import Services

ROUNDS, CALLS, ROWS = 5, 400, 20_000
MILLION, HOT_ROWS = 1_000_000, 1_000
#: How many times faster than these it must be.
REQUIRED = {"save": 8.0, "upsert": 4.0, "bulk_create": 4.0}
#: Writes a second that land when each of 20,000 rows is written five times.
REQUIRED_COALESCED = 400_000
UPSERT = (
    "INSERT INTO demo_article (id, slug, title, body, price, views, updated) "
    "VALUES (%s, %s, 't', '', 0, 1, now()) "
    "ON CONFLICT (id) DO UPDATE SET views = demo_article.views + 1"
)


def seconds(run: Callable[[], Any]) -> float:
    """Return how long something takes."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def drain_all() -> None:
    """Land everything that waits."""
    from cachebackend import writebehind

    while partitions := writebehind.seal_dirty():
        for partition in partitions:
            writebehind.drain(partition)


def enqueue(keys: list[int]) -> dict[str, float]:
    """Return microseconds for one write of one row, by way; the ways take turns."""
    from django.db import connection
    from django.db.models import F

    from cacheproject.demo.models import Article

    rows = {row.pk: row for row in Article.objects.filter(pk__in=keys[:CALLS])}
    some = list(rows)
    with connection.cursor() as cursor:
        ways: dict[str, Callable[[], Any]] = {
            "behind": lambda: [Article.behind.update(pk, views=F("views") + 1) for pk in some],
            "save": lambda: [rows[pk].save(update_fields=["views"]) for pk in some],
            "upsert": lambda: [cursor.execute(UPSERT, (pk, f"a{pk}")) for pk in some],
        }
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, run in ways.items():
                taken[way].append(seconds(run) / len(some) * 1e6)
    drain_all()
    return {way: statistics.median(each) for way, each in taken.items()}


def drains(keys: list[int]) -> dict[str, float]:
    """Return rows a second for distinct rows, by way, and writes a second for repeated ones."""
    from django.db.models import F

    from cacheproject.demo.models import Article

    taken: dict[str, list[float]] = {"drain": [], "bulk_create": [], "coalesced": []}
    rows = list(Article.objects.filter(pk__in=keys))
    for _ in range(3):
        queue(keys, 1)
        taken["drain"].append(len(keys) / seconds(drain_all))
        taken["bulk_create"].append(
            len(keys)
            / seconds(
                lambda: Article.objects.bulk_create(
                    rows,
                    update_conflicts=True,
                    unique_fields=["id"],
                    update_fields=["views"],
                    batch_size=1000,
                )
            )
        )
        queue(keys, 5)
        taken["coalesced"].append(5 * len(keys) / seconds(drain_all))
    Article.behind.update(keys[0], views=F("views") + 1)
    drain_all()
    return {way: statistics.median(each) for way, each in taken.items()}


def queue(keys: list[int], times: int) -> None:
    """Add one to each row, so many times."""
    from django.db.models import F

    from cacheproject.demo.models import Article

    for _ in range(times):
        for at in range(0, len(keys), 5000):
            Article.behind.update_many({pk: {"views": F("views") + 1} for pk in keys[at : at + 5000]})


def million(keys: list[int]) -> dict[str, Any]:
    """Return what a million increments of a thousand rows take: bytes in the queue, rows written, seconds."""
    from cachebackend.writebehind.queue import project_queue
    from cacheproject.demo.models import Article

    [node] = project_queue().nodes

    def used() -> int:
        info = node.call((b"INFO", b"memory"))
        return int(info.partition(b"used_memory:")[2].split()[0])

    hot = keys[:HOT_ROWS]
    before = sum(Article.objects.filter(pk__in=hot).values_list("views", flat=True))
    empty = used()
    queue(hot, 1)
    once = used()
    queueing = seconds(lambda: queue(hot, MILLION // HOT_ROWS - 1))
    full = used()
    draining = seconds(drain_all)
    after = sum(Article.objects.filter(pk__in=hot).values_list("views", flat=True))
    return {
        "bytes_after_one_round": once - empty,
        "bytes_after_a_million": full - empty,
        "queueing_seconds": queueing,
        "draining_seconds": draining,
        "landed": after - before,
    }


def outage(services: Services, keys: list[int], length: float) -> dict[str, Any]:
    """Stop Postgres under load and start it again; return what waited, for how long, and what was lost."""
    from django.db import connections
    from django.db.models import F

    from cachebackend import writebehind
    from cachebackend.writebehind import drains as drains_module
    from cacheproject.demo.models import Article

    sent, done = [0], threading.Event()

    def load() -> None:
        while not done.is_set():
            Article.behind.update(keys[sent[0] % len(keys)], views=F("views") + 1)
            sent[0] += 1

    before = sum(Article.objects.filter(pk__in=keys).values_list("views", flat=True))
    writer = threading.Thread(target=load)
    writer.start()
    time.sleep(1.0)
    services.kill("postgres")
    time.sleep(length)
    waiting = {"changes": 0, "oldest_seconds": 0.0}
    for status in writebehind.partition_statuses():
        waiting["changes"] += status.fields
        waiting["oldest_seconds"] = max(waiting["oldest_seconds"], status.oldest_seconds)
    services.restart("postgres")
    connections.close_all()
    drains_module._backoff.answered("default")
    catching_up = seconds(lambda: [writebehind.drain(one) for one in writebehind.seal_dirty()])
    done.set()
    writer.join()
    drain_all()
    after = sum(Article.objects.filter(pk__in=keys).values_list("views", flat=True))
    return {
        "seconds_away": length,
        "waiting": waiting,
        "acknowledged": sent[0],
        "landed": after - before,
        "catching_up_seconds": round(catching_up, 3),
    }


def main() -> None:
    """Measure, print, and exit with 0 if the ratios are what is required."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--outage", type=float, metavar="SECONDS", help="stop Postgres for so long under load"
    )
    options = parser.parse_args()
    with Services(ring=3, queue=1) as services:
        set_up(services)
        from django.core.management import call_command
        from django.db import connection

        from cacheproject.demo.models import Article

        call_command("migrate", verbosity=0, interactive=False)
        with connection.cursor() as cursor:  # the tests' Postgres keeps nothing; here it is what people run
            cursor.execute("ALTER SYSTEM SET fsync = on")
            cursor.execute("SELECT pg_reload_conf()")
        made = Article.objects.bulk_create(Article(slug=f"b{n}", title="t") for n in range(ROWS))
        keys = [row.pk for row in made]
        if options.outage:
            told: dict[str, Any] = outage(services, keys, options.outage)
            missed = [] if told["landed"] == told["acknowledged"] else ["writes were lost or doubled"]
        else:
            told, missed = measure(keys)
    if options.json:
        print(json.dumps(told | {"missed": missed}))
    else:
        for name, value in told.items():
            print(f"{name:24} {value}")
        for text in missed:
            print(f"missed: {text}")
    sys.exit(bool(missed))


def measure(keys: list[int]) -> tuple[dict[str, Any], list[str]]:
    """Return all figures, and which are less than is required."""
    one, many = enqueue(keys), drains(keys)
    ratios = {
        "save": one["save"] / one["behind"],
        "upsert": one["upsert"] / one["behind"],
        "bulk_create": many["drain"] / many["bulk_create"],
    }
    told = {
        "enqueue_us": {way: round(each, 1) for way, each in one.items()},
        "drain_per_second": {way: round(each) for way, each in many.items()},
        "times_faster_than": {way: round(each, 1) for way, each in ratios.items()},
        "a_million_increments": million(keys),
    }
    missed = [
        f"{way}: {ratios[way]:.1f} times, not {least:g}"
        for way, least in REQUIRED.items()
        if ratios[way] < least
    ]
    if many["coalesced"] < REQUIRED_COALESCED:
        missed.append(f"coalesced: {many['coalesced']:.0f} writes/s, not {REQUIRED_COALESCED}")
    return told, missed


if __name__ == "__main__":
    main()
