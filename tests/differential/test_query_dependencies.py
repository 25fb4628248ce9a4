"""A write that changes the result of a query hits a tag of the query.

No cache takes part. The result of each kind of query is computed before and after a random write, and the
rows that the write has changed are found by comparison of the tables. ``FUZZ_SEED=7`` runs the writes of a
seed again; ``FUZZ_SECONDS=3600`` runs new ones for an hour.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
from django.db import connection, models, transaction
from django.db.models import Count, Max
from django.db.models.sql.datastructures import Join

from cachebackend.invalidation.catalogue import TableCatalogue, forget_catalogues, kind_of
from cachebackend.queries import binding, dependencies, recording
from cachebackend.queries.dependencies import CompiledQuery, compiled_aggregation, compiled_query
from cachebackend.queries.not_cached import NotCached
from cachebackend.queries.recording import Recorder
from cachebackend.queries.tables import Rules, watched_catalogue
from tests.differential import row_changes
from tests.differential.query_kinds import KINDS, UNCACHED, Constants, Query
from tests.differential.row_changes import MODELS, RandomWrites, changes_between, is_hit, rows_of_tables
from tests.zoo.models import Author, Bar, Desk, Inn, Label, Place, Poem, Post, Sum, Visit

pytestmark = [pytest.mark.postgres, pytest.mark.django_db]

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("FUZZ_SEED", "0")) or (random.SystemRandom().getrandbits(32) if SECONDS else 1)
#: In ``make test``: rounds, each with new rows, some of the kinds and new constants.
ROUNDS = 15
#: Writes of a round.
WRITES = 20
#: Every write of Django to every table is seen.
RULES = Rules(is_watched=lambda _: True)

Columns = Callable[[row_changes.Change], "set[str] | None"]


@dataclass
class Asked:
    """A query of a round.

    Attributes:
        name: Its kind and form.
        result: Returns its result.
        compiled: What it depends on.
        before: Its result before the next write.
    """

    name: str
    result: Callable[[], Any]
    compiled: CompiledQuery
    before: Any = None


@dataclass
class Findings:
    """What a run has found.

    Attributes:
        writes: The writes.
        changed: The results that a write has changed.
        kept: The results that a write to one of their tables has not hit.
        missed: The changed results that no tag was hit of.
    """

    writes: int = 0
    changed: int = 0
    kept: int = 0
    missed: Counter[str] = field(default_factory=Counter)


@pytest.fixture(autouse=True)
def padded(db: None) -> Iterator[None]:
    """A column in which the database holds different texts equal: it pads them."""
    forget_catalogues()
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE zoo_visit ALTER COLUMN city TYPE char(20)")
    yield
    forget_catalogues()


def run(
    seed: Any,
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    kinds: Sequence[str] = (),
    written: Sequence[type[models.Model]] = MODELS,
    columns: Columns = lambda change: change.columns,
) -> Findings:
    """Write at random, and compare each changed result with the tags that the write hits.

    Args:
        seed: The seed.
        rounds: The least number of rounds.
        seconds: How long more of them are run. The first round that finds something is the last one.
        kinds: The kinds that are asked in each round; by default some of all.
        written: The models that are written.
        columns: Returns the columns that a writer reports of a change.
    """
    found, end = Findings(), time.monotonic() + seconds
    for number in itertools.count():
        if found.missed or (number >= rounds and time.monotonic() >= end):
            return found
        with transaction.atomic():
            source = random.Random(f"{seed}-{number}")
            asked = kinds or source.sample(sorted(KINDS.keys() - UNCACHED.keys()), len(KINDS) // 3)
            _round(RandomWrites(source, written), found, list(_asked(source, asked)), columns)
            transaction.set_rollback(True)
    raise AssertionError  # the loop above returns


def _round(writes: RandomWrites, found: Findings, asked: Sequence[Asked], columns: Columns) -> None:
    writes.fill()
    for each in asked:
        each.before = each.result()
    tables = rows_of_tables()
    for _ in range(WRITES):
        done = writes.write()
        after = rows_of_tables()
        changes = [(change, columns(change)) for change in changes_between(tables, after)]
        tables = after
        found.writes += 1
        tables_of_changes = {change.model._meta.db_table for change, _ in changes}
        for each in asked:
            if not any(f'"{table}"' in str(each.compiled.sql) for table in tables_of_changes):
                continue  # the statement does not read what has changed
            result = each.result()
            is_changed = result != each.before
            is_found = any(
                is_hit(dependency, change, reported)
                for dependency in each.compiled.dependencies
                for change, reported in changes
            )
            found.changed += is_changed
            found.kept += not is_found
            if is_changed and not is_found:
                found.missed[each.name] += 1
                if found.missed[each.name] == 1 and os.environ.get("FUZZ_SHOW"):
                    print(f"\n{each.name}: {done}\n{each.compiled}\n{each.before}\n{result}")
            each.before = result


def _asked(source: random.Random, kinds: Sequence[str]) -> Iterator[Asked]:
    """Yield a query of each kind, in one or two forms."""
    for name in kinds:
        query = KINDS[name](Constants(source))
        compiled = compile_rows(query)
        yield Asked(name, partial(rows_of, query, compiled), compiled)
        form = source.choice(sorted(_FORMS))
        if made := _FORMS[form](query):
            compiled, result = made
            yield Asked(f"{name}: {form}", result, compiled)


def compile_rows(query: Query, **options: Any) -> CompiledQuery:
    return compiled_query(query.query, "default", rules=RULES, **options)


def rows_of(query: Query, compiled: CompiledQuery) -> Any:
    """Return the rows that the database has for a query; in the order of the query if it has one."""
    if compiled.sql is None:
        return []
    with connection.cursor() as cursor:
        cursor.execute(compiled.sql, compiled.params)
        rows = [repr(row) for row in cursor.fetchall()]
    return rows if query.ordered or (query.query.combinator and query.query.order_by) else sorted(rows)


def _related(row: models.Model, around: Sequence[models.Model] = ()) -> Any:
    """Return the related rows that came with an instance, without those that it came with itself."""
    return sorted(
        (name, _columns(value, (*around, row)))
        for name, value in row._state.fields_cache.items()
        if not any(value is each for each in around)
    )


def _columns(row: models.Model | None, around: Sequence[models.Model]) -> Any:
    """Return the columns of a related row, and the rows that came with it."""
    if row is None:
        return None
    columns = {name: value for name, value in row.__dict__.items() if name != "_state"}
    return sorted(columns.items()), _related(row, around)


def _keys_of(query: Query) -> Any:
    """Return the primary keys of instances, with annotations and related rows."""
    rows = []
    for row in query.all():
        own = {field.attname for field in row._meta.concrete_fields}
        added = {name: value for name, value in row.__dict__.items() if name not in {*own, "_state"}}
        rows.append(repr((row.pk, sorted(added.items()), _related(row))))
    return rows if query.ordered else sorted(rows)


def _entries(query: Query) -> tuple[CompiledQuery, Callable[[], Any]] | None:
    if query._fields is not None or query.query.combinator:
        return None
    return compile_rows(query, leaves_out_rows=True), lambda: _keys_of(query)


def _count(query: Query) -> tuple[CompiledQuery, Callable[[], Any]] | None:
    if query.query.combinator and query.query.is_sliced:
        return None  # Django fails to count it
    return _aggregation(query, Count("*"))


def _exists(query: Query) -> tuple[CompiledQuery, Callable[[], Any]]:
    compiled = compiled_query(query.query.exists(), "default", rules=RULES)
    return compiled, partial(rows_of, query, compiled)


def _most(query: Query) -> tuple[CompiledQuery, Callable[[], Any]] | None:
    names = {field.name for field in query.model._meta.concrete_fields}
    if query._fields is not None or query.query.combinator or query.query.distinct_fields:
        return None
    return _aggregation(query, Max("rank")) if "rank" in names else None


def _aggregation(query: Query, aggregate: Any) -> tuple[CompiledQuery, Callable[[], Any]]:
    compiled = compiled_aggregation(query.query, "default", {"value": aggregate}, rules=RULES)
    return compiled, partial(rows_of, query, compiled)


_FORMS: dict[str, Callable[[Query], tuple[CompiledQuery, Callable[[], Any]] | None]] = {
    "entries": _entries,
    "count": _count,
    "exists": _exists,
    "most": _most,
}


def test_a_changed_result_is_hit() -> None:
    """Every query that a page may ask, after every write."""
    found = run(SEED)
    print(f"\nFUZZ_SEED={SEED}: {found}")
    assert not found.missed, found
    assert found.changed > found.writes
    assert found.kept > found.changed  # a write to a table leaves most of its results alone


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_kind_is_cached_unless_it_cannot_be(name: str) -> None:
    """And the reason names what is in the way."""
    query = KINDS[name](Constants(random.Random(1)))
    if name not in UNCACHED:
        assert compile_rows(query).sql or not query.exists()
        return
    with transaction.atomic(), pytest.raises(NotCached, match=UNCACHED[name]):
        compile_rows(query)


def test_most_kinds_are_cached() -> None:
    """At least 100 kinds, and 85 of 100 are cached."""
    assert len(KINDS) >= 100
    assert len(UNCACHED) <= 0.15 * len(KINDS)


# Shortcuts that look right


def _bind_null_everywhere(patch: pytest.MonkeyPatch) -> None:
    """``IS NULL`` is bound across an outer join."""
    patch.setattr(binding, "_may_be_absent", lambda *_: False)


def _bind_every_type(patch: pytest.MonkeyPatch) -> None:
    """A column is bound without asking the catalogue."""
    patch.setattr(TableCatalogue, "can_bind", lambda _, column: kind_of(column) is not None)


def _read_before_compiling(patch: pytest.MonkeyPatch) -> None:
    """The tables of the query are read before Django compiles it."""
    init, note, note_column = Recorder.__init__, Recorder._note, Recorder._note_column

    def known(self: Any, query: Any, **options: Any) -> None:
        init(self, query, **options)
        self.known = {*query.alias_map, query.model._meta.db_table}

    def is_known(self: Any, alias: str) -> bool:
        return alias in self.known

    patch.setattr(Recorder, "__init__", known)
    patch.setattr(
        Recorder,
        "_note",
        lambda self, select, node: (
            note(self, select, node) if type(node) is not Join or is_known(self, node.table_alias) else None
        ),
    )
    patch.setattr(
        Recorder,
        "_note_column",
        lambda self, column: note_column(self, column) if is_known(self, column.alias) else None,
    )


def _leave_out_generated(patch: pytest.MonkeyPatch) -> None:
    """Neither readers nor writers know that a column is generated."""
    patch.setattr(
        dependencies,
        "watched_catalogue",
        lambda *args: replace(watched_catalogue(*args), generated=frozenset()),
    )


def _bind_in_or(patch: pytest.MonkeyPatch) -> None:
    """A condition of OR is bound."""
    patch.setattr(binding, "AND", Everything())


def _bind_the_first_value(patch: pytest.MonkeyPatch) -> None:
    """Of several values the first one is bound."""
    narrow = binding._narrow
    patch.setattr(binding, "_narrow", lambda values, column, texts: narrow(values, column, texts[:1]))


def _leave_out_columns_of_children(patch: pytest.MonkeyPatch) -> None:
    """A child that comes with its parent is one of the whole rows."""
    patch.setattr(recording, "_left_out", lambda info: info["select_fields"] if info else ())


class Everything:
    """Equal to everything."""

    __hash__ = None  # type: ignore[assignment]  # nothing asks for it

    def __eq__(self, other: object) -> bool:
        return True


@pytest.mark.parametrize(
    ("shortcut", "kinds", "written"),
    [
        (_bind_null_everywhere, ["reverse one to one column null", "many null"], (Author, Desk, Label, Post)),
        (_bind_every_type, ["padded text"], (Visit,)),
        (_read_before_compiling, ["select related", "order by related"], (Author, Poem)),
        (_leave_out_generated, ["generated number", "generated value"], (Sum,)),
        (_bind_in_or, ["or", "related or"], (Author, Poem)),
        (_bind_the_first_value, ["in", "foreign key pk"], (Author, Poem)),
        (_leave_out_columns_of_children, ["parent with children"], (Place, Inn, Bar)),
    ],
)
def test_a_shortcut_is_found(
    shortcut: Callable[[pytest.MonkeyPatch], None],
    kinds: list[str],
    written: Sequence[type[models.Model]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each one misses a change, and the writes find it."""
    shortcut(monkeypatch)

    def reported(change: row_changes.Change) -> set[str] | None:
        generated = {field.column for field in change.model._meta.local_concrete_fields if field.generated}
        return None if change.columns is None else change.columns - generated

    found = run(1, rounds=60, seconds=0, kinds=kinds, written=written, columns=reported)
    print(f"\n{shortcut.__name__}: {found}")
    assert found.missed
