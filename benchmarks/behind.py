"""How fast queued writes are drained, compared with other ways to write.

``python -m benchmarks.behind SECONDS`` stops Postgres for that time, under load and with a worker that
ticks, and reports what ``manage.py writebehind status`` prints. Exits with 1 if a write was lost.
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
from benchmarks.goals import Goal, Measured
from benchmarks.herd import set_up
from cacheproject.processes import MANAGE, celery_worker
from cacheproject.services import Services

ROUNDS, ROWS = 5, 20_000
#: The number of threads that drain partitions: as many as a small worker has.
THREADS = 2
MILLION, HOT_ROWS = 1_000_000, 1_000
GOALS = (
    Goal("drain", "bulk_create", 4.0, "at_least"),
    Goal(
        "drain, invalidating",
        "drain",
        0.8,
        "at_least",
        why_missed="Of each row, the outbox stores two keys and not one primary key, and nodes delete both.",
    ),
    # Each of the rows is written five times
    Goal("coalesced", "one write a second", 400_000, "at_least"),
)
#: Seconds of load and worker before Postgres is stopped; seconds between two polls of the queue.
WARM_SECONDS, POLL_SECONDS = 5.0, 0.05


def seconds(run: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def drain_all() -> None:
    """Drain everything that is queued."""
    from cachebackend import writebehind

    while partitions := writebehind.seal_dirty():
        for partition in partitions:
            writebehind.drain(partition)


def drains(plain: Any, keys: list[int]) -> dict[str, list[float]]:
    """Return the seconds of a row in each round, by way; of coalesced writes, the seconds of a write."""
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
        """Write and seal, as writers and the tick do; only the drains that the tick sends are measured."""
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
    measured: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, (make_ready, run, times) in ways.items():
            make_ready()
            with connection.cursor() as cursor:  # as autovacuum would; otherwise dead rows slow later rounds
                cursor.execute(f"VACUUM {plain._meta.db_table}")
            measured[way].append(seconds(run) / times / len(keys))
    pool.shutdown()
    return measured


def queue(model: Any, keys: list[int], times: int) -> None:
    """Add one to each row, ``times`` times."""
    from django.db.models import F

    for _ in range(times):
        for start in range(0, len(keys), 5000):
            model.behind.update_many({pk: {"views": F("views") + 1} for pk in keys[start : start + 5000]})


def million(keys: list[int]) -> dict[str, Any]:
    """Queue a million increments of a thousand rows; return bytes queued, writes applied and seconds."""
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
    """Stop Postgres under load and start it again; return what was queued, for how long, what was lost."""
    from django.db import connections
    from django.db.models import F

    from cachebackend import writebehind
    from cacheproject.demo.models import Article

    sent, done = [0], threading.Event()

    def load() -> None:
        while not done.is_set():
            Article.behind.update(keys[sent[0] % len(keys)], views=F("views") + 1)
            sent[0] += 1

    def wait_for_drains(since: float) -> float:
        """Return the seconds until no write is queued that arrived before a moment."""
        started = time.perf_counter()
        while any(oldest < since for _, oldest in writebehind.dirty_partitions()):
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - started

    before = sum(Article.objects.filter(pk__in=keys).values_list("views", flat=True))
    with celery_worker():
        writer = threading.Thread(target=load)
        writer.start()
        time.sleep(WARM_SECONDS)
        services.kill("postgres")
        time.sleep(length)
        away = status()
        services.restart("postgres")
        catch_up = wait_for_drains(time.time())
        done.set()
        writer.join()
        wait_for_drains(time.time())
    connections.close_all()
    after = sum(Article.objects.filter(pk__in=keys).values_list("views", flat=True))
    return {
        "seconds_away": length,
        "status_while_away": {name: away[name] for name in ("waiting", "oldest_seconds", "well", "faults")},
        "status_afterwards": {name: status()[name] for name in ("waiting", "parked", "well")},
        "acknowledged": sent[0],
        "landed": after - before,
        "catching_up_seconds": round(catch_up, 3),
    }


def status() -> dict[str, Any]:
    """Return the report of ``manage.py writebehind status``."""
    results = subprocess.run(
        [sys.executable, str(MANAGE), "writebehind", "status", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if not results.stdout:
        raise RuntimeError(results.stderr)
    found: dict[str, Any] = json.loads(results.stdout.splitlines()[-1])
    return found


def measure(*, quick: bool) -> Measured:
    """Measure each way to write in turns; a quick run leaves out the million increments."""
    with Services(ring=3, queue=1, durable=True) as services:
        set_up(services)
        keys = make_rows(ROWS)
        measured = drains(plain_rows(), keys)
        increments = None if quick else million(keys)
    rates = {way: round(1 / statistics.median(each)) for way, each in measured.items()}
    measured["one write a second"] = [1.0] * ROUNDS
    ratios = {
        (goal.work, goal.compared_with): goal.ratios(measured[goal.work], measured[goal.compared_with])
        for goal in GOALS
    }
    return Measured(ratios, {"drain_per_second": rates, "a_million_increments": increments})


def main() -> None:
    """Stop Postgres under load, print, and exit with 0 if no write was lost or applied twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float, metavar="SECONDS", help="how long Postgres is stopped")
    options = parser.parse_args()
    with Services(ring=3, queue=1, durable=True) as services:
        set_up(services)
        results = outage(services, make_rows(ROWS), options.seconds)
    for name, value in results.items():
        print(f"{name:24} {value}")
    sys.exit(results["landed"] != results["acknowledged"])


if __name__ == "__main__":
    main()
