"""What a write of a cached row costs, compared with the same write of plain Django."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.goals import Goal, Measured, Ratios, measure_ratios
from benchmarks.herd import set_up
from benchmarks.rounds import one_core
from cacheproject.processes import call_after_setup
from cacheproject.services import Services

__all__ = ["GOALS", "measure"]

ROUNDS, QUICK_ROUNDS = 9, 3
#: Rows that are saved in turns; rows of a large update and of a bulk_create.
SAVED, UPDATED, CREATED = 100, 100_000, 10_000
#: The most bytes that a large update may need beside those of the plain one.
MEMORY_BYTES = 64 * 1024**2
#: Commits that do not wait for the disk, and commits that wait 1 ms for it.
UNFLUSHED = "SET synchronous_commit = off"
WAITING = "SET commit_siblings = 0; SET commit_delay = 1000"
_SCATTERS = (
    "One statement writes the row and its outbox row. It takes 2.2 times as long as the plain one if the "
    "outbox row is a constant, and half as long again with the changed values: Postgres parses a text. Then "
    "values and the registry of query shapes take a scatter to all nodes, and tags one to most of them. "
    "Python takes twice the plain CPU, spread over 60 modules."
)
_ROWS = (
    "The writer reads the changed rows from its outbox rows, makes a key and a tag for each, and the nodes "
    "delete them: work that a plain update does not have."
)
_NEW = (
    "Others may have cached that a new row is absent, so each row has a key and a tag: the writer makes "
    "them, the outbox stores them, and the nodes delete them, together 20 microseconds a row."
)
SAVES = ("save()", "save(), plain"), ("save(), commit waits 1 ms", "plain, commit waits 1 ms")
GOALS = (
    Goal(*SAVES[0], 1.8, "at_most", _SCATTERS),
    Goal(*SAVES[1], 1.3, "at_most", _SCATTERS),
    Goal("update() of 100,000", "update() of 100,000, plain", 1.5, "at_most", _ROWS),
    Goal("its memory, beside the plain one", "64 MB", 1.0, "at_most"),
    Goal("bulk_create of 10,000", "bulk_create of 10,000, plain", 1.2, "at_most", _NEW),
)
_context = multiprocessing.get_context("spawn")


def saves(own: str, other: str, cached: Any, plain: Any) -> dict[str, Callable[[], Any]]:
    """Return how a row is saved in autocommit, with all its columns."""
    keys = list(plain.objects.values_list("pk", flat=True)[:SAVED])
    ways: dict[str, Callable[[], Any]] = {}
    for name, model in {own: cached, other: plain}.items():
        rows = itertools.cycle(model.objects.filter(pk__in=keys))
        ways[name] = lambda rows=rows: next(rows).save()
    return ways


def seconds(run: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def updates(cached: Any, plain: Any, rounds: int) -> Ratios:
    """Return the ratios of an update of many rows."""
    from django.db import connection
    from django.db.models import F

    durations: dict[Any, list[float]] = {cached: [], plain: []}
    for model in (plain, cached) * (rounds + 1):
        with connection.cursor() as cursor:  # as autovacuum would; otherwise dead rows slow later rounds
            cursor.execute(f"VACUUM {model._meta.db_table}")
        durations[model].append(seconds(lambda model=model: model.objects.update(views=F("views") + 1)))
    return ratios_of("update() of 100,000", durations[cached][1:], durations[plain][1:])


def creations(cached: Any, plain: Any, rounds: int) -> Ratios:
    """Return the ratios of a bulk_create of many rows."""
    from django.db import connection

    durations: dict[Any, list[float]] = {cached: [], plain: []}
    for model in (plain, cached) * (rounds + 1):
        rows = [model(slug=f"new{number}", title="t") for number in range(CREATED)]
        durations[model].append(seconds(lambda model=model, rows=rows: model.objects.bulk_create(rows)))
        with connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {model._meta.db_table} WHERE slug LIKE 'new%'")
            cursor.execute(f"VACUUM {model._meta.db_table}")
    return ratios_of("bulk_create of 10,000", durations[cached][1:], durations[plain][1:])


def ratios_of(work: str, own: list[float], others: list[float]) -> Ratios:
    """Return the ratios of a goal, from the durations of both ways."""
    [goal] = [goal for goal in GOALS if goal.work == work]
    return {(goal.work, goal.compared_with): goal.ratios(own, others)}


def memory_of_update(*, is_cached: bool) -> int:
    """Return by how many bytes an update of all rows raises the highest memory of a new process."""
    results = _context.SimpleQueue()
    arguments = ("benchmarks.writes.measure_memory", is_cached, results)
    child = _context.Process(target=call_after_setup, args=arguments)
    child.start()
    child.join()
    if child.exitcode:
        message = "the process that measures memory has failed"
        raise RuntimeError(message)
    return int(results.get())


def measure_memory(is_cached: bool, results: Any) -> None:
    """Update all rows, and report by how many bytes the highest memory of this process grew."""
    from django.db.models import F

    from cacheproject.demo.models import Article

    model = Article if is_cached else plain_model()
    model.objects.filter(pk=model.objects.values_list("pk", flat=True)[:1]).update(views=F("views") + 1)
    # A new process begins with the highest memory of its parent
    Path("/proc/self/clear_refs").write_text("5")
    before = highest_memory()
    model.objects.update(views=F("views") + 1)
    results.put(highest_memory() - before)


def highest_memory() -> int:
    """Return the highest memory of this process since it was reset, in bytes."""
    [line] = [each for each in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in each]
    return int(line.split()[1]) * 1024


@contextmanager
def settings(text: str) -> Iterator[None]:
    """Change settings of the database session for a block."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(text)
    yield
    with connection.cursor() as cursor:
        cursor.execute("RESET ALL")


def plain_model() -> Any:
    """Return a model like the articles, in a table of its own: writes are seen by table."""
    from django.db import models

    from cacheproject.demo.models import Article

    fields = {field.name: field.clone() for field in Article._meta.local_fields if not field.primary_key}
    meta = type("Meta", (), {"app_label": "demo", "db_table": "demo_plainarticle"})
    return type("PlainArticle", (models.Model,), {"__module__": __name__, "Meta": meta, **fields})


def prepare(rows: int) -> tuple[Any, Any]:
    """Create the tables, each with rows; return the cached model and the plain one."""
    from django.core.management import call_command
    from django.db import connection

    from cacheproject.demo.models import Article

    call_command("migrate", verbosity=0, interactive=False)
    plain = plain_model()
    with connection.schema_editor() as editor:
        editor.create_model(plain)
    plain.objects.bulk_create((plain(slug=f"b{n}", title="t") for n in range(rows)), batch_size=10_000)
    with connection.cursor() as cursor:  # past Django, so that this costs no invalidation
        columns = ", ".join(field.column for field in plain._meta.local_fields)
        cursor.execute(f"INSERT INTO demo_article ({columns}) SELECT {columns} FROM demo_plainarticle")
        cursor.execute("SELECT setval(pg_get_serial_sequence('demo_article', 'id'), %s)", [rows])
        cursor.execute("VACUUM ANALYZE")
    return Article, plain


def measure(*, quick: bool) -> Measured:
    """Measure writes in turns: first with commits that do not wait for the disk."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with one_core(), Services(ring=3, durable=True) as services:
        set_up(services)
        cached, plain = prepare(UPDATED)
        found: Ratios = {}
        for (own, other), text in zip(SAVES, (UNFLUSHED, WAITING), strict=True):
            with settings(text):
                found |= measure_ratios(GOALS, saves(own, other, cached, plain), quick=quick)
        with settings(UNFLUSHED):
            found |= updates(cached, plain, rounds)
            found |= creations(cached, plain, rounds)
        used = memory_of_update(is_cached=True) - memory_of_update(is_cached=False)
        found |= ratios_of("its memory, beside the plain one", [used], [MEMORY_BYTES])
    return Measured(found, {"memory_bytes": used})
