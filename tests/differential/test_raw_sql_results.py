"""After random raw SQL on tables with triggers, each query has the same result through the ring as in Django.

The SQL is run by another program, and the relay after it; or by this process, in transactions and savepoints
of which some are rolled back, among writes of Django. ``FUZZ_SEED`` and ``FUZZ_SECONDS`` are as for the other
tests of this folder.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from typing import Any, TypeAlias
from uuid import UUID

import psycopg
import pytest
from django.core.cache import cache
from django.db import DatabaseError, connection, models, transaction
from django.db.models import Count, Max, Sum
from django.test.utils import CaptureQueriesContext

from cachebackend import invalidation
from cachebackend.invalidation import old_rows, row_texts
from cachebackend.models import OutboxRow
from tests.zoo.models import Hymn, Sample, Singer, Song, Topic, Verse

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("FUZZ_SEED", "0")) or (random.SystemRandom().getrandbits(32) if SECONDS else 1)
#: Steps in ``make test``, those after which rows begin again, and queries that are read after each.
STEPS, STEPS_OF_ROUND, READS = 30, 15, 20
#: Rows of a table at the begin, and the most.
ROWS, MOST_ROWS = 4, 7
Program: TypeAlias = "psycopg.Connection[Any]"
Manager: TypeAlias = Callable[[type[models.Model]], Any]
Query: TypeAlias = Callable[[Manager], Any]

MOMENT, OTHER = datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
#: By column, what SQL sets it to.
NUMBERS, KEYS = ("0", "1", "2"), ("NULL", "1", "2", "3", "4")
COLUMNS: dict[type[models.Model], dict[str, tuple[str, ...]]] = {
    Singer: {"rank": NUMBERS},
    Song: {"rank": NUMBERS, "singer_id": KEYS},
    Hymn: {"verses": NUMBERS},
    Verse: {"rank": NUMBERS, "song_id": KEYS},
    Sample: {
        "rank": (*NUMBERS, "rank", "3 - rank"),
        "parent_id": KEYS,
        "topic_name_id": ("NULL", "'n1'", "'n2'"),
        "small": ("NULL", "0", "1"),
        "large": ("NULL", "9007199254740993", "9007199254740992"),
        "flag": ("NULL", "true", "false", "NOT flag"),
        "price": ("NULL", "1", "1.5", "1.50", "-0.0", "'NaN'"),
        "at": ("NULL", f"'{MOMENT}'", f"'{OTHER}'", "'infinity'", "'2026-10-25 02:30 Europe/Amsterdam'"),
        "day": ("NULL", "'2026-10-25'", "'0044-03-15 BC'", "at::date"),
        "code": ("NULL", "'00000000-0000-0000-0000-000000000001'", "'00000000000000000000000000000002'"),
        "label": ("NULL", "''", "'a'", "'A'", "'é'", "E'e\\u0301'"),
        "note": ("NULL", "'a'", "'A'"),
        "file": ("''", "'a'"),
        "essay": ("''", "'a'", "repeat('a', 3000)"),
        "weight": ("NULL", "0.1", "0.1 + 0.2", "0.3"),
        "data": ("NULL", """'{"a": 1}'""", """'{"a": 1.0}'"""),
        "chunk": ("NULL", "1"),
    },
    Sample.topics.through: {"sample_id": KEYS[1:], "topic_id": KEYS[1:]},
}
#: What a row has to have, beside its key.
NEEDED = {Sample: {"rank": "0", "essay": "''"}}
NAMED = (Singer, Song, Verse, Sample)
SESSIONS = ("Europe/Amsterdam", "America/St_Johns", "UTC")


def by_pk(query: Any) -> list[Any]:
    return list(query.order_by("pk").values_list("pk", flat=True))


def of_samples(**filters: Any) -> Query:
    return lambda of: by_pk(of(Sample).filter(**filters))


QUERIES: dict[str, Query] = {
    **{
        f"{name}={value!r}": of_samples(**{name: value})
        for name, values in {
            "rank": (0, 1, 2, 3),
            "parent": (None, 1, 2),
            "topic_name": (None, "n1", "n2"),
            "small": (None, 0, 1),
            "large": (9007199254740993, 9007199254740992),
            "flag": (None, True, False),
            "price": (None, 1, Decimal("1.5"), 0),
            "at": (None, MOMENT, OTHER),
            "day": (None, date(2026, 10, 25)),
            "code": (None, UUID(int=1), UUID(int=2)),
            "label": (None, "", "a", "é", "e\u0301"),
            "loud": ("A", "É"),
            "note": (None, "a"),
            "file": ("", "a"),
            "weight": (None, 0.1, 0.3),
            "topics": (1, 2, None),
            "topics__rank": (1, 2),
            "parent__rank": (0, 1),
            "parts__small": (1, None),
            "name": ("n1", "n9"),
        }.items()
        for value in values
    },
    "two": of_samples(rank=1, flag=True),
    "in": of_samples(rank__in=[1, 2], small=1),
    "range": of_samples(price__gt=1),
    "essays": lambda of: list(of(Sample).order_by("essay", "pk").values_list("essay", "pk")),
    "documents": lambda of: list(of(Sample).order_by("pk").values_list("data", flat=True)),
    "count": lambda of: of(Sample).count(),
    "count of a rank": lambda of: of(Sample).filter(rank=1).count(),
    "is there": lambda of: of(Sample).filter(rank=2, flag=False).exists(),
    "sums": lambda of: of(Sample).filter(rank=1).aggregate(Sum("large"), Max("chunk")),
    "groups": lambda of: list(of(Sample).values("rank").annotate(n=Count("topics")).order_by("rank")),
    "topics of a sample": lambda of: by_pk(of(Topic).filter(samples=1)),
    "names": lambda of: [str(row.name) for row in of(Topic).filter(rank=1).order_by("name")],
    "songs of a singer": lambda of: by_pk(of(Song).filter(singer=1)),
    "songs of a rank of singers": lambda of: by_pk(of(Song).filter(singer__rank=1)),
    "songs that are hymns": lambda of: by_pk(of(Song).filter(hymn__verses=1)),
    "hymns by both tables": lambda of: by_pk(of(Hymn).filter(rank=1, verses=1)),
    "hymns of a singer": lambda of: [row.name for row in of(Hymn).filter(singer=2).order_by("pk")],
    "verses of a song": lambda of: by_pk(of(Verse).filter(song=1)),
    "verses of a singer": lambda of: by_pk(of(Verse).filter(song__singer=1)),
}


def cached(model: type[models.Model]) -> Any:
    return model.cached  # type: ignore[attr-defined]


def plain(model: type[models.Model]) -> Any:
    return model._base_manager.all()


class UndoError(Exception):
    """Rolls a transaction back."""


@dataclass
class Run:
    """Random steps, and what they have found.

    Args:
        source: The source of chance.
        program: The connection of another program.
    """

    source: random.Random
    program: Program
    log: list[str] = field(default_factory=list)
    steps: int = 0
    same: int = 0
    same_hits: int = 0
    _before: dict[str, Any] = field(default_factory=dict)

    def start_again(self) -> None:
        """Empty the tables and the cache, and insert some rows. The table of topics has no triggers."""
        tables = ", ".join(f'"{model._meta.db_table}"' for model in (*COLUMNS, Topic))
        self.program.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
        cache.clear()
        Topic.objects.bulk_create(Topic(name=f"n{key}", rank=key % 3) for key in range(1, ROWS + 1))
        for model in NAMED:
            for key in range(1, ROWS + 1):
                self._execute(self._insert(model, key))
        for key in (1, 2):
            self._execute(f"INSERT INTO zoo_hymn (song_ptr_id, verses) VALUES ({key}, {key})")
            self._execute(f"INSERT INTO zoo_sample_topics (sample_id, topic_id) VALUES ({key}, {key})")
        invalidation.relay()
        self.compare("at the begin")

    def step(self) -> None:
        """Write in one of the ways, and compare."""
        self.steps += 1
        if self.source.random() < 0.5:
            self._by_program(self._statement())
        else:
            self._by_django()
        self.compare("after a step")

    # Ways

    def _by_program(self, sql: str) -> None:
        self._execute(sql)
        invalidation.relay()

    def _execute(self, sql: str) -> None:
        zone = self.source.choice(SESSIONS)
        self.log.append(f"program, {zone}: {sql}")
        self.program.execute(f"SET TimeZone = '{zone}'")
        with suppress(psycopg.Error):
            self.program.execute(sql)

    def _by_django(self) -> None:
        """Run statements in autocommit, or in a transaction that is committed or not."""
        if self.source.random() < 0.4:
            self._one_by_django()
            return
        ending = self.source.choice(("commit", "commit", "error"))
        self.log.append(f"atomic, {ending}:")
        with suppress(DatabaseError, UndoError), transaction.atomic():
            for _ in range(self.source.randint(1, 3)):
                with suppress(DatabaseError, UndoError), transaction.atomic():
                    self._one_by_django()
                    if self.source.random() < 0.2:
                        self.log.append("  undone")
                        raise UndoError
                self.compare("in the transaction", is_committed=False)
            if ending == "error":
                raise UndoError

    def _one_by_django(self) -> None:
        if self.source.random() < 0.4:
            self._by_orm()
            return
        sql = self._statement()
        self.log.append(f"django: {sql}")
        with suppress(DatabaseError), connection.cursor() as cursor:
            cursor.execute(sql)

    def _by_orm(self) -> None:
        """Write by the ORM, which runs the triggers, too."""
        rank, key = self.source.randrange(3), self._key()
        model: Any = self.source.choice((Song, Hymn, Sample, Topic))
        ways: dict[str, Callable[[], Any]] = {
            "update": lambda: model.objects.filter(pk=key).update(rank=rank),
            "update all": lambda: model.objects.update(rank=rank),
            "update essays": lambda: Sample.objects.filter(rank=rank).update(essay="b", small=1),
            "create": lambda: model.objects.create(name=f"n{key}", rank=rank),
            "delete": lambda: Sample.topics.through.objects.filter(topic=key).delete(),
            "add": lambda: Sample(pk=key).topics.add(rank + 1),
        }
        name = self.source.choice(sorted(ways))
        self.log.append(f"orm: {name} {model.__name__} {key} {rank}")
        with suppress(DatabaseError):
            ways[name]()

    # Statements

    def _statement(self) -> str:
        model = self.source.choice([*COLUMNS, Sample, Sample, Sample])
        kinds = [partial(self._update, model)] * 6 + [partial(self._delete, model)]
        if model in NAMED:
            kinds += [
                partial(self._insert, model, self._key()),
                partial(self._upsert, model),
                partial(self._merge, model),
                partial(self._move, model),
            ]
        elif model is not Hymn:
            kinds += [partial(self._insert_relation, model)] * 3
        sql: str = self.source.choice(kinds)()
        return sql

    def _key(self) -> int:
        return self.source.randint(1, MOST_ROWS)

    def _where(self, model: type[models.Model]) -> str:
        key = model._meta.pk.column
        conditions = ["true", f"{key} <= 2", *[f"{key} = {self._key()}"] * 4]
        return self.source.choice(conditions)

    def _update(self, model: type[models.Model]) -> str:
        columns = COLUMNS[model]
        chosen = self.source.sample(sorted(columns), min(len(columns), self.source.choice((1, 1, 2, 3))))
        values = ", ".join(f"{name} = {self.source.choice(columns[name])}" for name in chosen)
        return f"UPDATE {model._meta.db_table} SET {values} WHERE {self._where(model)}"

    def _delete(self, model: type[models.Model]) -> str:
        return f"DELETE FROM {model._meta.db_table} WHERE {model._meta.pk.column} = {self._key()}"

    def _insert(self, model: type[models.Model], key: int) -> str:
        columns = COLUMNS[model]
        values = {"id": str(key), "name": f"'n{key}'", "rank": "0", **NEEDED.get(model, {})}
        for name in self.source.sample(sorted(columns), min(len(columns), 5)):
            values[name] = self.source.choice([each for each in columns[name] if "rank" not in each])
            if "flag" in values[name] or "at::" in values[name]:
                del values[name]
        names = ", ".join(values)
        return f"INSERT INTO {model._meta.db_table} ({names}) VALUES ({', '.join(values.values())})"

    def _upsert(self, model: type[models.Model]) -> str:
        return f"{self._insert(model, self._key())} ON CONFLICT (id) DO UPDATE SET rank = EXCLUDED.rank + 1"

    def _merge(self, model: type[models.Model]) -> str:
        deleted, updated = self._key(), self._key()
        return (
            f"MERGE INTO {model._meta.db_table} AS t "
            f"USING (VALUES ({deleted}, 0), ({updated}, 1)) AS s (id, n) ON t.id = s.id "
            "WHEN MATCHED AND n = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET rank = 2"
        )

    def _move(self, model: type[models.Model]) -> str:
        """Exchange all rows but their keys, or give a row another key."""
        if self.source.random() < 0.3:
            return f"UPDATE {model._meta.db_table} SET id = {self._key()} WHERE id = {self._key()}"
        return (
            f"UPDATE {model._meta.db_table} AS t SET rank = s.rank "
            f"FROM {model._meta.db_table} AS s WHERE s.id = t.id % {ROWS} + 1"
        )

    def _insert_relation(self, model: type[models.Model]) -> str:
        one, other = COLUMNS[model].values()
        return (
            f"INSERT INTO {model._meta.db_table} ({', '.join(COLUMNS[model])}) "
            f"VALUES ({self.source.choice(one)}, {self.source.choice(other)})"
        )

    # Reads

    def compare(self, when: str, *, is_committed: bool = True) -> None:
        """Read some queries in both ways, and count those whose result is kept."""
        for name in self.source.sample(sorted(QUERIES), READS):
            query = QUERIES[name]
            expected = query(plain)
            with CaptureQueriesContext(connection) as captured:
                found = query(cached)
            if found != expected:
                log = "\n".join([*self.log[-8:], f"{when}: {name}"])
                line = f"FUZZ_SEED={SEED}\n{log}:\n  the ring says {found!r},\n  the database  {expected!r}"
                pytest.fail(line, pytrace=False)
            if is_committed:
                is_same = self._before.get(name, self) == expected
                self.same += is_same
                self.same_hits += is_same and not len(captured)
                self._before[name] = expected


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triggers that write values of one state only."""
    models_with_triggers = [*COLUMNS, Song]
    monkeypatch.setattr(row_texts, "MAX_VALUE_BYTES", 3000)
    install(models_with_triggers)
    yield
    monkeypatch.undo()
    install(models_with_triggers)


def install(written: list[type[models.Model]]) -> None:
    for model in written:
        for trigger in getattr(model._meta, "triggers", ()):
            trigger.install(model)


def run_steps(name: str, program: Program) -> Run:
    run = Run(random.Random(f"{SEED}-{name}"), program)
    end = time.monotonic() + SECONDS
    for number in itertools.count():
        if number >= STEPS and time.monotonic() >= end:
            break
        if number % STEPS_OF_ROUND == 0:
            run.start_again()
        run.step()
    assert not OutboxRow.objects.exclude(error="").exists()
    print(f"\nFUZZ_SEED={SEED}: {run.steps} steps; of {run.same} same results {run.same_hits} were hits")
    return run


@pytest.mark.parametrize("version", [old_rows.POSTGRES_18, 10**9], ids=["this version", "before 18"])
def test_a_result_is_that_of_plain_django(
    version: int, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the database is changed; most results that a statement does not change are kept."""
    monkeypatch.setattr(old_rows, "POSTGRES_18", version)
    run = run_steps(str(version), program)
    assert run.same_hits > 0.7 * run.same


@pytest.mark.usefixtures("small_limit")
def test_a_result_is_that_of_plain_django_if_statements_write_few_values(program: Program) -> None:
    """Then less is kept."""
    run = run_steps("small", program)
    assert run.same_hits > 0.5 * run.same
