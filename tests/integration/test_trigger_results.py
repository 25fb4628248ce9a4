"""Triggers name changed rows by value, so that only those results are wrong which the change can affect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import connection, transaction

from cachebackend import invalidation
from cachebackend.backend.keys import change_keys, content_of_change_key
from cachebackend.invalidation import row_texts, triggers
from cachebackend.invalidation.catalogue import bindable_fields
from cachebackend.invalidation.query_changes import ResultChange, ValueChange
from cachebackend.invalidation.row_texts import changed_member
from cachebackend.invalidation.transactions import scheduled_deletes
from cachebackend.invalidation.trigger_rows import _changed_rows
from cachebackend.models import OutboxRow
from tests.integration.results import Pages
from tests.zoo.models import Hymn, Sample, Song, Topic

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
SAMPLE = Sample._meta.db_table
Program = psycopg.Connection[Any]
NEPAL = timezone(timedelta(hours=5, minutes=45))

#: A primary key that the sequence does not give to another row.
PARENT = 2**31 - 7
#: Values of a column, which the database holds different.
VALUES: dict[str, list[Any]] = {
    "rank": [0, -1, 2**31 - 1],
    "small": [None, 0, -(2**15)],
    "large": [None, 2**63 - 1, -(2**63)],
    "flag": [None, True, False],
    "price": [None, Decimal(0), Decimal("1.5"), Decimal("-0.0001"), Decimal("12345678.9"), Decimal("1E+7")],
    "at": [
        None,
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1883, 11, 18, 12, 3, 58, tzinfo=UTC),
        datetime(2026, 10, 25, 0, 30, 0, 1, tzinfo=UTC),
        datetime(2026, 10, 25, 1, 30, 0, 1, tzinfo=UTC),
        datetime(2026, 10, 25, 7, tzinfo=NEPAL),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),  # later in the zone of ``SESSION``
    ],
    "day": [None, date(1, 1, 1), date(2026, 2, 28), date(9999, 12, 31)],
    "code": [None, UUID(int=0), UUID("9d1a44ba-5a5c-4a3c-8f43-8c3a0ed3a7a1"), UUID(int=2**128 - 1)],
    "label": [None, "", " ", "null", "NULL", "a", "A", "é", "e\u0301", '"\\\n', "\u2028😀", "x" * 200],
    "slug": [None, "", "a-b"],
    "file": ["", "a/b.txt", "a/B.txt"],
    "parent_id": [None, PARENT],
    "topic_name_id": [None, "tea", "Tea"],
}
#: What a session may have set, and how that would change the text of a value.
SESSION = """
    SET LOCAL TimeZone = 'Europe/Amsterdam'; SET LOCAL DateStyle = 'SQL, DMY';
    SET LOCAL IntervalStyle = 'sql_standard'; SET LOCAL bytea_output = 'escape';
    SET LOCAL extra_float_digits = -15
"""


@pytest.fixture
def ends() -> None:
    """The rows that the values of foreign keys refer to."""
    Topic.objects.create(name="tea")
    Topic.objects.create(name="Tea")
    Sample.objects.create(pk=PARENT, name="parent")
    invalidation.relay()


def of_writer() -> list[ValueChange]:
    """Return what the open transaction knows by its own statements."""
    deletes = scheduled_deletes(connection)
    assert deletes is not None
    changes = [
        ResultChange.read(content_of_change_key(key) or b"") for key in change_keys(deletes.keys["default"])
    ]
    return [row for change in changes for row in change.rows or ()]


def of_triggers() -> list[ValueChange]:
    """Return what triggers have written in the open transaction."""
    rows = OutboxRow.objects.filter(transaction_id__isnull=False).order_by("pk")
    return [change for row in rows for change in _changed_rows(row.label, row.rows or (), "default").changes]


@pytest.mark.usefixtures("ends")
@pytest.mark.parametrize("name", VALUES)
def test_a_trigger_and_a_writer_of_django_know_a_value_by_the_same_digest(name: str) -> None:
    """Of each kind that queries may bind, with any settings of the session. Another value has another one."""
    column = Sample._meta.get_field(name).column
    digests = []
    for number, value in enumerate(VALUES[name]):
        with transaction.atomic():
            Sample.objects.create(**{"name": f"s{number}", name: value})
            [written], [seen] = of_writer(), of_triggers()
            with connection.cursor() as cursor:
                cursor.execute(SESSION)
                cursor.execute(f"UPDATE {SAMPLE} SET essay = 'x' WHERE name = 's{number}'")
                cursor.execute("SET LOCAL DateStyle = 'ISO'; SET LOCAL TimeZone = 'UTC'")
            _, again = of_triggers()
            assert (seen.columns, seen.old) == (None, written.new)
            assert again.columns == {"essay"}
            assert (written.new or {}).items() <= (again.old or {}).items()
            digests.append((written.new or {}).get(column))
    assert None not in digests
    assert len(set(digests)) == len(digests)


def test_every_kind_of_column_is_tested() -> None:
    """That queries of this model may bind."""
    names = {field.attname for field in bindable_fields(Sample, "default")}
    assert names - VALUES.keys() == {"id", "name", "loud", "chunk", "outbox"}


UNREADABLE = [
    ("at", "infinity"),
    ("at", "0044-03-15 BC"),
    ("day", "-infinity"),
    ("day", "20000-01-01"),
    ("price", "NaN"),
]


@pytest.mark.parametrize(("column", "value"), UNREADABLE)
def test_a_value_that_python_cannot_read_has_no_digest(column: str, value: str) -> None:
    """So every result is wrong that binds the column."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {SAMPLE} (name, rank, essay, {column}) VALUES ('a', 1, '', %s)", [value]
            )
        [seen] = of_triggers()
        assert seen.old is not None
        assert column not in seen.old
        transaction.set_rollback(True)


COLUMNS = {
    "rank": "2", "price": "1.50", "essay": "repeat('x', 3000)", "weight": "0.1 + 0.2", "data": "'[1]'::jsonb",
    "at": "'infinity'::timestamptz", "code": "gen_random_uuid()", "chunk": "1",
}  # fmt: skip


@pytest.mark.parametrize("column", COLUMNS)
def test_an_update_lists_the_columns_that_it_changes(column: str, program: Program) -> None:
    """Of any type, as their values are stored; a column that is set to the value that it has is not one."""
    Sample.objects.create(name="a", rank=1, weight=0.1, data={"a": 2})
    invalidation.relay()
    for expected in ([column], []):
        program.execute("SET extra_float_digits = -15")
        program.execute(f"UPDATE {SAMPLE} SET {column} = {COLUMNS[column] if expected else column}")
        lists = {
            tuple(state[changed_member(Sample)])
            for row in OutboxRow.objects.all()
            for state in row.rows or ()
        }
        assert lists == {tuple(expected)}
        OutboxRow.objects.all().delete()


@pytest.fixture
def samples() -> list[Sample]:
    """Three rows in two groups."""
    rows = [Sample.objects.create(name=name, rank=rank) for name, rank in (("a", 1), ("b", 1), ("c", 2))]
    invalidation.relay()
    return rows


@pytest.fixture
def pages(samples: list[Sample]) -> Iterator[Pages]:
    """Cached results of queries over the samples."""
    cached = Sample.cached
    pages = Pages(
        {
            "rank 1": lambda: cached.filter(rank=1).order_by("name").values_list("name", flat=True),
            "rank 2": lambda: cached.filter(rank=2).order_by("name").values_list("name", flat=True),
            "rank 3": lambda: cached.filter(rank=3).order_by("name").values_list("name", flat=True),
            "count": lambda: cached.values_list("pk", flat=True).order_by("pk"),
            "small 1": lambda: cached.filter(small=1).order_by("pk").values_list("pk", flat=True),
            "essays": lambda: cached.order_by("essay", "pk").values_list("pk", flat=True),
            "weights": lambda: cached.order_by("weight", "pk").values_list("pk", flat=True),
            "louds": lambda: cached.order_by("loud", "pk").values_list("pk", flat=True),
        }
    )
    pages.read()
    assert not pages.loaded()
    yield pages
    assert not pages.loaded()


ALL = {"rank 1", "rank 2", "rank 3", "count", "small 1", "essays", "weights", "louds"}
INSERTED = {"count", "essays", "weights", "louds"}
WRITES: dict[str, tuple[str, set[str]]] = {
    "a group": ("UPDATE {t} SET rank = 3 WHERE name = 'c'", {"rank 2", "rank 3"}),
    "the name in a list": ("UPDATE {t} SET name = 'd' WHERE name = 'c'", {"rank 2"}),
    "nothing": ("UPDATE {t} SET rank = rank", set()),
    "no row": ("UPDATE {t} SET rank = 9 WHERE name = 'x'", set()),
    "a long text": ("UPDATE {t} SET essay = 'x' WHERE name = 'a'", {"essays"}),
    "a float": ("UPDATE {t} SET weight = 2 WHERE name = 'a'", {"weights"}),
    "a column that no query reads": ("UPDATE {t} SET data = '[1]', flag = true", set()),
    "a generated column": ("UPDATE {t} SET label = 'x' WHERE name = 'a'", {"louds"}),
    "a bound column that was NULL": ("UPDATE {t} SET small = 1 WHERE name = 'a'", {"small 1"}),
    "an exchange": (
        "UPDATE {t} SET rank = 3 - rank WHERE name IN ('a', 'c')", {"rank 1", "rank 2"}
    ),
    "an insert": ("INSERT INTO {t} (name, rank, essay) VALUES ('d', 3, '')", {"rank 3", *INSERTED}),
    "a delete": ("DELETE FROM {t} WHERE name = 'c'", {"rank 2", *INSERTED}),
    "an upsert": (
        """INSERT INTO {t} (name, rank, essay) VALUES ('c', 9, ''), ('d', 3, '')
        ON CONFLICT (name) DO UPDATE SET small = 1""",
        {"rank 3", "small 1", *INSERTED},
    ),
    "a merge": (
        """MERGE INTO {t} AS t USING (VALUES ('c'), ('d')) AS s (name) ON t.name = s.name
        WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (name, rank, essay) VALUES (s.name, 3, '')""",
        {"rank 2", "rank 3", *INSERTED},
    ),
    "another primary key": ("UPDATE {t} SET id = id + 1000 WHERE name = 'c'", {"rank 2", *INSERTED}),
    "truncate": ("TRUNCATE {t} CASCADE", {"rank 1", "rank 2", *INSERTED}),
}  # fmt: skip


@pytest.mark.parametrize("write", WRITES)
def test_raw_sql_of_another_program(write: str, pages: Pages, program: Program) -> None:
    """The relay deletes the results that the change can affect, and no others."""
    sql, wrong = WRITES[write]
    program.execute(sql.format(t=SAMPLE))
    invalidation.relay()
    assert pages.loaded() == wrong


@pytest.mark.parametrize("write", WRITES)
def test_raw_sql_of_this_process(write: str, pages: Pages) -> None:
    """The commit deletes them."""
    sql, wrong = WRITES[write]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql.format(t=SAMPLE))
    assert pages.loaded() == wrong


def save_rank(sample: Sample) -> None:
    sample.rank = 3
    sample.save(update_fields=["rank"])


def update_essay(sample: Sample) -> None:
    Sample.objects.filter(pk=sample.pk).update(essay="x")


@pytest.mark.parametrize(("write", "wrong"), [(save_rank, {"rank 2", "rank 3"}), (update_essay, {"essays"})])
def test_a_write_of_django_on_a_table_with_triggers(
    pages: Pages, samples: list[Sample], write: Callable[[Sample], None], wrong: set[str]
) -> None:
    """Its triggers name the same change, and nothing more is wrong."""
    write(samples[2])
    assert pages.loaded() == wrong


@pytest.mark.parametrize("write", [write for write in WRITES if write not in {"an upsert", "a merge"}])
def test_a_large_statement_writes_no_values(
    write: str,
    pages: Pages,
    program: Program,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Results of every value are wrong then, if they depend on the columns that it changes."""
    monkeypatch.setattr(row_texts, "MAX_VALUE_BYTES", 0)
    sql, wrong = WRITES[write]
    install(Sample)
    try:
        program.execute(sql.format(t=SAMPLE))
    finally:
        monkeypatch.undo()
        install(Sample)
    names = {name for row in OutboxRow.objects.all() for state in row.rows or () for name in state}
    assert "rank" not in names
    assert "parent_id" in names or not names
    invalidation.relay()
    assert pages.loaded() >= wrong
    pages.read()


def install(model: Any) -> None:
    """Replace the triggers of a model by those that this release makes now."""
    for trigger in model._meta.triggers:
        trigger.install(model)


def test_the_triggers_of_an_earlier_release(pages: Pages, program: Program) -> None:
    """They wrote the columns of keys alone: every result of the table may be wrong."""
    pk = Sample.objects.get(name="c").pk
    program.execute("SET session_replication_role = replica")
    program.execute(f"UPDATE {SAMPLE} SET rank = 3 WHERE name = 'c'")
    OutboxRow.objects.create(label="zoo.sample", rows=[{"id": str(pk)}], transaction_id=1)
    invalidation.relay()
    assert pages.loaded() == ALL


def test_a_column_that_a_trigger_does_not_know(pages: Pages) -> None:
    """It lists the columns that it compares under another name, so any column may have changed."""
    state = {"id": "1", "name": "c", "rank": "2", "small": None, "changed of 00000000": ["small"]}
    OutboxRow.objects.create(label="zoo.sample", rows=[state], transaction_id=1)
    invalidation.relay()
    assert pages.loaded() == {"rank 2", *INSERTED}


def test_a_damaged_list_of_columns_is_set_aside(pages: Pages) -> None:
    """And means everything of the model."""
    OutboxRow.objects.create(
        label="zoo.sample", rows=[{"id": "1", changed_member(Sample): "rank"}], transaction_id=1
    )
    assert invalidation.relay().pending == 0
    assert pages.loaded() == ALL
    OutboxRow.objects.all().delete()
    assert triggers.ROWS_PER_OUTBOX_ROW == 1000


def test_cascades_that_change_a_row_twice(program: Program) -> None:
    """They share the tables of old and new rows. If these have a key twice, any column may have changed."""
    song = Song.objects.create(name="a")
    Hymn(song_ptr=song, verses=song.pk).save_base(raw=True)
    invalidation.relay()
    new = song.pk + 100
    pages = Pages({"new": lambda: Hymn.cached.filter(pk=new).values_list("pk", flat=True)})
    pages.read()
    columns = ("song_ptr_id", "verses")
    for column in columns:
        program.execute(
            f"ALTER TABLE zoo_hymn ADD CONSTRAINT cascade_{column} "
            f"FOREIGN KEY ({column}) REFERENCES zoo_song (id) ON UPDATE CASCADE"
        )
    try:
        program.execute("UPDATE zoo_song SET id = %s WHERE id = %s", [new, song.pk])
    finally:
        for column in columns:
            program.execute(f"ALTER TABLE zoo_hymn DROP CONSTRAINT cascade_{column}")
    states = [state for row in OutboxRow.objects.filter(label="zoo.hymn") for state in row.rows or ()]
    assert {(int(state["song_ptr_id"]), int(state["verses"])) for state in states} == {
        (song.pk, song.pk),
        (new, song.pk),
        (new, new),
    }
    invalidation.relay()
    assert pages.loaded() == {"new"}
