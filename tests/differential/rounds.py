"""A round of the differential test of cached querysets: new rows, some queries, and writes at random."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from django.core.cache import caches
from django.core.exceptions import EmptyResultSet, ObjectDoesNotExist
from django.db import DatabaseError, NotSupportedError, connections, models, transaction

import tests.differential.writes  # noqa: F401  # it registers all kinds of writes
from cachebackend import invalidate
from tests.differential import kinds
from tests.differential.cached_reads import Asked, Findings
from tests.differential.machine import Gate, Thread
from tests.differential.process_memory import ProcessMemory
from tests.differential.query_forms import FORMS, Call, result_of
from tests.differential.query_kinds import KINDS, Constants
from tests.differential.row_changes import MODELS, RandomWrites
from tests.differential.rows import start_again
from tests.differential.targets import Step, Target, World
from tests.zoo.models import FAMILIES, Letter, Reply

__all__ = ["SECOND_ALIAS", "WRITTEN", "Round"]

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


class UndoError(Exception):
    """Rolls a transaction back."""


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
        self._written = written
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
        elif 0 < depth < 3 and chance < 0.25:
            self._savepoint(depth)
        elif depth == 0 and chance < 0.35:
            self._raw_sql(is_undone=chance < 0.31)
        else:
            self._step()
            self._compare("after a step")
            if depth == 0 and chance > 0.9:
                self._share()

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

    def _savepoint(self, depth: int) -> None:
        """Run several items after a savepoint, and return to it, or release it.

        Half of the savepoints have the same name, as those of a program that imports rows by SQL.
        """
        if self._source.random() < 0.5:
            sid = '"again"'
            connections[self._using]._savepoint(sid)  # type: ignore[attr-defined]  # it sends the statement
        else:
            sid = connections[self._using].savepoint()
        self._log.append(f"savepoint {sid}:")
        for _ in range(self._source.randint(1, 3)):
            self._item(depth + 1)
        is_undone = connections[self._using].needs_rollback or self._source.random() < 0.7
        end = transaction.savepoint_rollback if is_undone else transaction.savepoint_commit
        if is_undone:
            transaction.set_rollback(False, self._using)
        end(sid, self._using)
        self._log.append(end.__name__)
        self._compare("after a savepoint")

    def _raw_sql(self, *, is_undone: bool) -> None:
        """Change a table by raw SQL, and read before the transaction ends: nothing of it may be kept."""
        models = [model for model in self._written if "rank" in {f.name for f in model._meta.local_fields}]
        if not models:
            return
        model, number = self._source.choice(models), self._source.randrange(4)
        self._log.append(f"raw SQL: rank = {number} in {model.__name__}, {'undone' * is_undone}")
        self._found.writes += 1
        with suppress(UndoError, DatabaseError), transaction.atomic(self._using):
            with connections[self._using].cursor() as cursor:
                cursor.execute(f'UPDATE "{model._meta.db_table}" SET rank = %s', [number])
            for asked in self._source.sample(self._asked, READS // 2):
                asked.cached(is_kept=self._source.random() < 0.5)
            if is_undone:
                raise UndoError
            invalidate(*model._base_manager.all())
        self._compare("after raw SQL")

    def _step(self) -> None:
        """Write rows in one of the ways."""
        self._found.writes += 1
        try:
            with transaction.atomic(self._using) if self._in_transaction() else _nothing():
                chance = self._source.random()
                if not self._steps or chance < 0.65:
                    self._log.append(self._writes.write())
                    return
                if chance < 0.68:
                    self._log.append(self._writes.empty())
                    return
                if chance < 0.7 and Letter in self._written:
                    rank = self._source.randrange(4)
                    self._log.append(f"the second model of letters: rank = {rank}")
                    Reply.objects.filter(rank__lte=rank).update(rank=rank)
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

    def _share(self) -> None:
        """Evaluate one queryset in two threads at the same time."""
        if self._found.wrong:
            return
        asked = self._source.choice(self._asked)
        queryset, plain = asked.kept(), asked.plain()

        def read() -> Any:
            return result_of(queryset, asked.form, Call(is_async=False))

        other = self._observer.start(read)
        for cached in (read(), other.result()):
            self._found.reads += 1
            if cached != plain:
                line = f"{asked}, shared:\n  the ring says {cached!r},\n  the database  {plain!r}"
                self._found.wrong.append("\n".join([*self._log[-8:], line]))

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
