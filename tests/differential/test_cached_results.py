"""After random writes, each query has the same result through the ring as in plain Django.

Rows are written in every way that Django has (``tests.differential.writes``), in transactions and
savepoints, of which some are rolled back. Queries are read after each write, also in the open
transaction and by another thread. ``FUZZ_SEED=7 FUZZ_ONLY=3`` runs one round of a seed again;
``FUZZ_SECONDS=3600`` runs new ones for an hour.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import caches
from django.core.exceptions import EmptyResultSet, ObjectDoesNotExist
from django.db import DatabaseError, NotSupportedError, connections, models, transaction
from django.test import override_settings

import tests.differential.writes  # noqa: F401  # it registers all kinds of writes
from cachebackend.invalidation import statement, watched, writes
from cachebackend.invalidation.compilers import watch_queries
from cachebackend.invalidation.tables import forget_tables
from cachebackend.testing import empty_ring
from cacheproject.services import Services
from tests.differential import kinds
from tests.differential.cached_reads import Asked, Findings, Statements
from tests.differential.machine import Gate, Thread
from tests.differential.process_memory import ProcessMemory
from tests.differential.query_forms import FORMS
from tests.differential.query_kinds import KINDS, UNCACHED, Constants
from tests.differential.row_changes import MODELS, RandomWrites
from tests.differential.rows import start_again
from tests.differential.targets import Step, Target, World
from tests.fix_services import flush
from tests.zoo.models import FAMILIES

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
    pytest.mark.filterwarnings("ignore::django.core.paginator.UnorderedObjectListWarning"),
]
#: For how long rounds are run, if that is longer than a few take; ``make soak`` sets it.
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("FUZZ_SEED", "0")) or (random.SystemRandom().getrandbits(32) if SECONDS else 1)
#: The one round that is run.
ONLY = os.environ.get("FUZZ_ONLY", "")
#: In ``make test``: rounds, each with new rows and other queries.
ROUNDS = 4
#: Writes of a round, its queries, and how many of them are read after each step.
WRITES, QUERIES, READS = 25, 30, 12
#: The models that a round writes.
MODELS_WRITTEN = 3
#: The families whose rows the steps write.
WRITTEN = ("relations", "many", "inheritance", "columns")
#: What a step may raise: the database refuses it, or there is no such row.
EXPECTED = (DatabaseError, ObjectDoesNotExist)
SECOND_ALIAS = "second"
#: These have another result each time.
RANDOM = {"random", "random order"}
#: This kind joins the table of content types, which nothing watches.
UNWATCHED = "generic target"


class UndoError(Exception):
    """Rolls a transaction back."""


class Router:
    """Sends all models to one database."""

    current = "default"

    def db_for_read(self, *_: Any, **__: Any) -> str:
        return Router.current

    db_for_write = db_for_read


@pytest.fixture
def observer() -> Iterator[Thread]:
    """A thread with its own connections."""
    thread = Thread("observer")
    yield thread
    thread.close()


@pytest.fixture
def ring(services: Services) -> Iterator[None]:
    """Two cache aliases, in which results of queries over all models are kept."""
    second = settings.CACHES["default"] | {"KEY_PREFIX": "second"}
    router = f"{__name__}.Router"
    before = {model: set(aliases) for model, aliases in watched._queried.items()}
    with (
        override_settings(CACHES={**settings.CACHES, SECOND_ALIAS: second}, DATABASE_ROUTERS=[router]),
        empty_ring(),
    ):
        for model in MODELS:
            watch_queries(model, SECOND_ALIAS)
        yield
    watched._queried.clear()
    watched._queried.update(before)
    forget_tables()


class Round:
    """One round: new rows, some queries, and writes.

    Args:
        name: The seed.
        using: The alias of the database.
        found: What the run has found so far.
        observer: A thread that reads while a transaction is open.
    """

    def __init__(self, name: str, using: str, found: Findings, observer: Thread) -> None:
        self._source = random.Random(name)
        self._using, self._found, self._observer = using, found, observer
        self._memory, self._world = ProcessMemory(), World()
        # Few tables, so that a write often changes what a query reads
        written = self._source.sample([model for model in MODELS if _kinds_of(model)], MODELS_WRITTEN)
        self._writes = RandomWrites(self._source, written, using)
        self._steps = [
            (kind, model.__name__)
            for kind in kinds.KINDS
            for family in WRITTEN
            for model in FAMILIES[family]
            if kinds.fits(kind, model) and _tables(model) & set().union(*map(_tables, written))
        ]
        self._asked = self._queries(sorted(set().union(*map(_kinds_of, written)) - RANDOM))
        self._log: list[str] = []
        self._is_reading = False

    def run(self) -> None:
        """Fill the tables, and write and read; stop at the first wrong result."""
        start_again([model for family in WRITTEN for model in FAMILIES[family]], self._using)
        RandomWrites(self._source, using=self._using).fill()
        self._compare("at the begin")
        end = self._found.writes + WRITES
        while self._found.writes < end and not self._found.wrong:
            self._item(0)

    def _queries(self, names: Sequence[str]) -> list[Asked]:
        source = self._source
        return [
            Asked(
                source.choice(names),
                source.choice(sorted(FORMS)),
                str(source.random()),
                SECOND_ALIAS if source.random() < 0.2 else "default",
            )
            for _ in range(QUERIES)
        ]

    # Writes

    def _item(self, depth: int) -> None:
        """Run a step or a block."""
        chance = self._source.random()
        if depth < 3 and chance < 0.15:
            self._transaction(depth)
        elif depth == 0 and chance < 0.25 and self._using == "default":  # SQLite would wait for the reader
            self._beside_slow_reader()
        else:
            self._step()
            self._compare("after a step")

    def _transaction(self, depth: int) -> None:
        """Run several items in a transaction or savepoint, and end it in one of the ways."""
        ending = self._source.choice(("commit", "commit", "error", "set_rollback"))
        has_savepoint = self._source.random() < 0.7
        self._log.append(f"atomic(savepoint={has_savepoint}), {ending}:")
        connection = connections[self._using]
        try:
            with transaction.atomic(self._using, savepoint=has_savepoint):
                for _ in range(self._source.randint(1, 4)):
                    self._item(depth + 1)
                if ending == "set_rollback":
                    transaction.set_rollback(True, using=self._using)
                if ending == "error":
                    raise UndoError
        except (*EXPECTED, UndoError):
            if connection.in_atomic_block and not has_savepoint:
                raise
        self._log.append("end of atomic")
        self._compare("after a transaction")

    def _step(self) -> None:
        """Write rows in one of the ways."""
        self._found.writes += 1
        try:
            with transaction.atomic(self._using) if self._in_transaction() else _nothing():
                if not self._steps or self._source.random() < 0.65:
                    self._log.append(self._writes.write())
                    return
                step = Step(*self._source.choice(self._steps), *(self._source.randrange(6) for _ in range(3)))
                self._log.append(repr(step))
                kinds.KINDS[step.kind](Target(step, self._world))
        except EXPECTED as error:
            self._log.append(f"  raised {type(error).__name__}")

    def _beside_slow_reader(self) -> None:
        """Write while a reader holds what it has loaded, and fills it after the write."""
        asked, gate = self._source.choice(self._asked), Gate()
        self._log.append(f"while {asked} is loaded:")
        flush_caches()

        def read() -> None:
            with connections[self._using].execute_wrapper(gate):
                asked.cached()

        reading = self._observer.start(read)
        gate.wait_for_reader(reading)
        self._is_reading = True
        try:
            self._step()
        finally:
            self._is_reading = False
            gate.open()
            reading.result()
        self._compare("after a slow read")

    def _in_transaction(self) -> bool:
        return connections[self._using].in_atomic_block

    # Reads

    def _compare(self, when: str) -> None:
        """Read all queries, and some of them by another thread if a transaction is open."""
        if self._is_reading or self._found.wrong or connections[self._using].needs_rollback:
            return
        match self._source.randrange(12):
            case 0:
                self._memory.forget()
            case 1 | 2:
                self._memory.exchange()
        is_committed = not self._in_transaction()
        for asked in self._source.sample(self._asked, READS):
            self._check(asked, when, is_committed=is_committed)
        if not is_committed:
            for asked in self._source.sample(self._asked, READS // 3):
                self._observer.run(
                    lambda each=asked: self._check(each, f"{when}, by another thread", is_committed=False)
                )

    def _check(self, asked: Asked, when: str, *, is_committed: bool) -> None:
        if not self._found.wrong:
            line = asked.compare(self._found, self._using, self._source, is_committed=is_committed)
            if line:
                self._found.wrong.append("\n".join([*self._log[-8:], f"{when}: {line}"]))


def _tables(model: type[models.Model]) -> set[str]:
    """Return the tables that hold rows of a model."""
    concrete = model._meta.concrete_model or model
    return {part._meta.db_table for part in (concrete, *concrete._meta.get_parent_list())}


@cache
def _kinds_of(model: type[models.Model]) -> frozenset[str]:
    """Return the kinds of queries that read a table of a model."""
    return frozenset(
        kind for kind, sql in _statements().items() if any(f'"{table}"' in sql for table in _tables(model))
    )


@cache
def _statements() -> dict[str, str]:
    """Return a statement of each kind of query, without those that are known to be empty."""
    found = {}
    for kind, query in KINDS.items():
        with suppress(EmptyResultSet, NotSupportedError, transaction.TransactionManagementError):
            found[kind] = str(query(Constants(random.Random(1))).query)
    return found


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def flush_caches() -> None:
    """Empty both caches, so that the next read is a miss."""
    for alias in ("default", SECOND_ALIAS):
        caches[alias].clear()


def run_rounds(using: str, services: Services, observer: Thread) -> Findings:
    """Run the rounds on a database; fail at the first wrong result."""
    found, end = Findings(), time.monotonic() + SECONDS
    Router.current = using
    try:
        for number in [int(ONLY)] if ONLY else itertools.count():
            if not ONLY and number >= ROUNDS and time.monotonic() >= end:
                break
            for url in services.ring_urls:
                flush(url)
            Round(f"{SEED}-{number}", using, found, observer).run()
            if found.wrong:
                line = f"FUZZ_SEED={SEED} FUZZ_ONLY={number}, {using}\n{found.wrong[0]}"
                print(f"\n{line}")
                pytest.fail(line, pytrace=False)
    finally:
        Router.current = "default"
    print(f"\nFUZZ_SEED={SEED}, {using}: {found}")
    return found


@pytest.mark.postgres
@pytest.mark.parametrize("way", ["as it is", "before 18", "no RETURNING"])
def test_a_result_is_that_of_plain_django(
    way: str, ring: None, services: Services, observer: Thread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However rows are written; most results that a write does not change are kept."""
    if way != "as it is":
        monkeypatch.setattr(statement, "POSTGRES_18", 10**9)
    if way == "no RETURNING":
        monkeypatch.setattr(writes.Write, "_can_return", False)
    found = run_rounds("default", services, observer)
    assert ONLY or found.same_hits > 0.6 * found.same, (found, found.loads.most_common(30))


def test_a_result_is_that_of_plain_django_on_sqlite(ring: None, services: Services, observer: Thread) -> None:
    """There rows are read before they are written."""
    found = run_rounds("lite", services, observer)
    assert ONLY or found.same_hits > 0.6 * found.same, (found, found.loads.most_common(30))


@pytest.mark.postgres
def test_most_kinds_are_kept(ring: None) -> None:
    """The database is asked once for at least 85 of 100 kinds; the others are named here."""
    start_again([model for family in WRITTEN for model in FAMILIES[family]], "default")
    asked = set()
    for kind in sorted(KINDS):
        each = Asked(kind, "rows", "1")
        statements = Statements("default")
        with transaction.atomic():
            each.cached()
            with statements.counted():
                each.cached()
        if statements.count:
            asked.add(kind)
    print(f"\n{len(KINDS) - len(asked)} of {len(KINDS)} kinds are kept; not: {', '.join(sorted(asked))}")
    assert asked == set(UNCACHED) | {UNWATCHED}
    assert len(asked) <= 0.15 * len(KINDS)
