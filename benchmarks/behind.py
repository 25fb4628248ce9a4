"""How fast what was written behind lands, beside what people do today, in one run.

``python -m benchmarks.behind`` prints a table; ``--json`` one object; ``--outage SECONDS``
stops Postgres for so long instead, under load and with a worker that ticks, as
``manage.py writebehind status`` tells it. Exits with 1 if a ratio is below what is required,
or a write was lost.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.enqueue import make_rows, plain_rows
from benchmarks.herd import set_up
from cacheproject.processes import MANAGE, celery_worker
from cacheproject.services import Services

ROUNDS, ROWS = 5, 20_000
#: Partitions that are drained at a time, by threads of a process: as many as a small worker has.
THREADS = 2
MILLION, HOT_ROWS = 1_000_000, 1_000
#: How many times faster than these it must be.
REQUIRED = {"bulk_create": 4.0}
#: Writes a second that land when each of 20,000 rows is written five times.
REQUIRED_COALESCED = 400_000
#: For so long the load and the worker run before Postgres is stopped; between two looks at the queue.
WARM_SECONDS, LOOK_SECONDS = 5.0, 0.05


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


def drains(plain: Any, keys: list[int]) -> dict[str, float]:
    """Return rows a second for distinct rows, by way, and writes a second for repeated ones."""
    from django.db import connection

    from cachebackend import writebehind
    from cacheproject.demo.models import Article

    rows = list(plain.objects.filter(pk__in=keys))

    def bulk_create() -> None:
        plain.objects.bulk_create(
            rows, update_conflicts=True, unique_fields=["id"], update_fields=["views"], batch_size=1000
        )

    pool, sealed = ThreadPoolExecutor(THREADS), list[Any]()

    def prepare(model: Any, times: int) -> None:
        """Do what writers and the tick do: what is measured is the drains that the tick sends."""
        queue(model, keys, times)
        sealed[:] = writebehind.seal_dirty()

    def by_one() -> None:
        for partition in sealed:
            writebehind.drain(partition)

    def by_threads() -> None:
        list(pool.map(writebehind.drain, sealed))

    ways: dict[str, tuple[Callable[[], Any], Callable[[], Any], int]] = {
        "drain": (lambda: prepare(plain, 1), by_threads, 1),
        "drain, one thread": (lambda: prepare(plain, 1), by_one, 1),
        "drain, invalidating": (lambda: prepare(Article, 1), by_threads, 1),
        "drain, invalidating, one thread": (lambda: prepare(Article, 1), by_one, 1),
        "bulk_create": (lambda: None, bulk_create, 1),
        "coalesced": (lambda: prepare(plain, 5), by_threads, 5),
        "coalesced, one thread": (lambda: prepare(plain, 5), by_one, 5),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, (make_ready, run, times) in ways.items():
            make_ready()
            with connection.cursor() as cursor:  # as autovacuum does in time; else each finds more dead rows
                cursor.execute(f"VACUUM {plain._meta.db_table}")
            taken[way].append(times * len(keys) / seconds(run))
    pool.shutdown()
    return {way: statistics.median(each) for way, each in taken.items()}


def queue(model: Any, keys: list[int], times: int) -> None:
    """Add one to each row, so many times."""
    from django.db.models import F

    for _ in range(times):
        for at in range(0, len(keys), 5000):
            model.behind.update_many({pk: {"views": F("views") + 1} for pk in keys[at : at + 5000]})


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
    queue(Article, hot, 1)
    once = used()
    queueing = seconds(lambda: queue(Article, hot, MILLION // HOT_ROWS - 1))
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
    from cacheproject.demo.models import Article

    sent, done = [0], threading.Event()

    def load() -> None:
        while not done.is_set():
            Article.behind.update(keys[sent[0] % len(keys)], views=F("views") + 1)
            sent[0] += 1

    def wait_for_landing(since: float) -> float:
        """Return the seconds until nothing waits that came before a moment."""
        begun = time.perf_counter()
        while any(oldest < since for _, oldest in writebehind.dirty_partitions()):
            time.sleep(LOOK_SECONDS)
        return time.perf_counter() - begun

    before = sum(Article.objects.filter(pk__in=keys).values_list("views", flat=True))
    with celery_worker():
        writer = threading.Thread(target=load)
        writer.start()
        time.sleep(WARM_SECONDS)
        services.kill("postgres")
        time.sleep(length)
        away = status()
        services.restart("postgres")
        catching_up = wait_for_landing(time.time())
        done.set()
        writer.join()
        wait_for_landing(time.time())
    connections.close_all()
    after = sum(Article.objects.filter(pk__in=keys).values_list("views", flat=True))
    return {
        "seconds_away": length,
        "status_while_away": {name: away[name] for name in ("waiting", "oldest_seconds", "well", "faults")},
        "status_afterwards": {name: status()[name] for name in ("waiting", "parked", "well")},
        "acknowledged": sent[0],
        "landed": after - before,
        "catching_up_seconds": round(catching_up, 3),
    }


def status() -> dict[str, Any]:
    """Return what ``manage.py writebehind status`` tells."""
    told = subprocess.run(
        [sys.executable, str(MANAGE), "writebehind", "status", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if not told.stdout:
        raise RuntimeError(told.stderr)
    found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, print, and exit with 0 if the ratios are what is required."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--outage", type=float, metavar="SECONDS", help="stop Postgres for so long under load"
    )
    options = parser.parse_args()
    with Services(ring=3, queue=1, durable=True) as services:
        set_up(services)
        keys = make_rows(ROWS)
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
    many = drains(plain_rows(), keys)
    ratios = {"bulk_create": many["drain"] / many["bulk_create"]}
    told = {
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
