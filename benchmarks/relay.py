"""The relay with a long outbox: its rate and memory, the writes beside it, and the growth of the table."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.goals import Goal, Measured
from benchmarks.herd import set_up
from cacheproject.processes import MANAGE
from cacheproject.services import Services

__all__ = ["GOALS", "measure"]

FEW, MANY, QUICK_MANY = 10_000, 1_000_000, 100_000
FEW_ROUNDS = 5
#: Writes of a simulated day, and those that one period of autovacuum sees: 60 s at 1,000 writes a second.
DAY, PERIOD, QUICK_DAY = 2_400_000, 60_000, 240_000
#: Seconds of writers before the relay runs, and at most while it runs.
WRITER_SECONDS = 5.0
RELAYED, RELAYED_FEW = "relay, a row of a long outbox", "relay, a row of a short outbox"
SAVED, SAVED_ALONE = "save while the relay runs", "save"
MEMORY, MEMORY_FEW = "memory for a long outbox", "memory for a short outbox"
GROWN, GROWN_ONCE = "table after a day of writes", "table after a quarter of them"
GOALS = (
    Goal(
        RELAYED,
        RELAYED_FEW,
        1.25,
        "at_most",
        "Each run passes over the rows that were deleted since the last run of autovacuum, and autovacuum "
        "takes a part of the two cores. How much each of them takes was not measured.",
    ),
    Goal(MEMORY, MEMORY_FEW, 1.2, "at_most"),
    Goal(SAVED, SAVED_ALONE, 1.5, "at_most"),
    Goal(GROWN, GROWN_ONCE, 2.5, "at_most"),
)
#: A row for one key of the alias "default", as a writer stores it.
_INSERT = """
    INSERT INTO cachebackend_outboxrow (keys, node, label, is_intent, error, created)
    SELECT '\\x81a7'::bytea || 'default'::bytea || '\\x91c4'::bytea
           || set_byte('\\x00'::bytea, 0, length(key)) || key, '', '', false, '', now() - interval '1 minute'
    FROM (SELECT convert_to(':1:benchmark:' || lpad(number::text, 20, '0'), 'UTF8') AS key
          FROM generate_series(1, {}) AS number) AS keys
"""
#: Writes insert their rows, and delete them in a later transaction, a batch at a time.
_WRITES = """
    CREATE OR REPLACE PROCEDURE benchmark_writes(rounds int) LANGUAGE plpgsql AS $$
    BEGIN
        FOR round IN 1..rounds LOOP
            {};
            COMMIT;
            DELETE FROM cachebackend_outboxrow;
            COMMIT;
        END LOOP;
    END $$
"""
_BATCH = 100


def measure(*, quick: bool) -> Measured:
    """Relay a short and a long outbox, write beside the relay, and simulate a day of writes."""
    many, day = (QUICK_MANY, QUICK_DAY) if quick else (MANY, DAY)
    with Services(ring=3, queue=1, durable=True) as services:
        set_up(services)
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        few = [_relay(FEW) for _ in range(FEW_ROUNDS)]
        memory_few = _peak_bytes()
        long, memory = _relay(many), _peak_bytes()
        alone, beside = _writers(QUICK_MANY)
        sizes = _day(day)
    ratios = {
        (RELAYED, RELAYED_FEW): [long / each for each in few],
        (MEMORY, MEMORY_FEW): [memory / memory_few],
        (SAVED, SAVED_ALONE): [each / statistics.median(alone) for each in beside],
        (GROWN, GROWN_ONCE): [size / sizes[0] for size in sizes[1:]],
    }
    details = {
        "rows": many,
        "rows_per_second": round(1 / long),
        "rows_per_second_few": round(1 / statistics.median(few)),
        "peak_mb": round(memory / 1e6),
        "save_ms": {"alone": statistics.median(alone) * 1e3, "beside": statistics.median(beside) * 1e3},
        "day": {"writes": day, "table_mb": [round(size / 1e6, 1) for size in sizes]},
    }
    return Measured(ratios, details)


def _execute(statement: str) -> Any:
    """Execute a statement; return its first row, if it returns rows."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone() if cursor.description else None


def _relay(rows: int) -> float:
    """Fill the outbox and relay all of it; return the seconds of a row."""
    from cachebackend import invalidation

    _execute(_INSERT.format(rows))
    started = time.perf_counter()
    while not (done := invalidation.relay()).is_complete:
        if done.failed:
            raise RuntimeError(done.failed)
    return (time.perf_counter() - started) / rows


def _peak_bytes() -> int:
    """Return the most memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _writers(rows: int) -> tuple[list[float], list[float]]:
    """Return the seconds of saves of a cached row: without a relay, and while another process relays."""
    from cacheproject.demo.models import Article

    article = Article.objects.create(slug="benchmark", title="t")

    def save() -> float:
        article.views += 1
        started = time.perf_counter()
        article.save()
        return time.perf_counter() - started

    ends = time.perf_counter() + WRITER_SECONDS
    alone = [save() for _ in iter(lambda: time.perf_counter() < ends, False)]
    _execute(_INSERT.format(rows))
    relay = subprocess.Popen([sys.executable, MANAGE, "invalidation", "relay"], stdout=subprocess.DEVNULL)
    try:
        while _execute("SELECT count(*) FROM cachebackend_outboxrow")[0] >= rows:
            time.sleep(0.05)  # it starts
        beside: list[float] = []
        ends = time.perf_counter() + WRITER_SECONDS
        while relay.poll() is None and time.perf_counter() < ends:
            beside.append(save())
    finally:
        relay.kill()
        relay.wait()
    _execute("TRUNCATE cachebackend_outboxrow")
    return alone, beside


def _day(writes: int) -> list[int]:
    """Write and delete the outbox rows of a day; return the bytes of the table after each quarter of them.

    Time runs sixty times as fast as in production: a minute's writes come in a second, and autovacuum
    looks at the table each second.
    """
    _execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
    _execute("SELECT pg_reload_conf()")
    _execute(_WRITES.format(_INSERT.format(_BATCH)))
    sizes = []
    for _ in range(4):
        for _ in range(writes // PERIOD // 4):
            started = time.perf_counter()
            _execute(f"CALL benchmark_writes({PERIOD // _BATCH})")
            time.sleep(max(0.0, 1.0 - (time.perf_counter() - started)))
        sizes.append(int(_execute("SELECT pg_total_relation_size('cachebackend_outboxrow')")[0]))
    return sizes
