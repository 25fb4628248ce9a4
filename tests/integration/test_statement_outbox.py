"""Statements that write their own outbox row, in one round trip and one transaction."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, OperationalError, connection, models, transaction
from django.db.models import F, Value
from django.db.models.functions import Concat, Now
from django.test.utils import CaptureQueriesContext

from cachebackend import invalidation, protocol
from cachebackend.invalidation import deletes, old_rows, row_texts, statement_outbox, stored_changes
from cachebackend.invalidation.catalogue import forget_catalogues
from cachebackend.invalidation.pending_deletes import PendingDeletes
from cachebackend.invalidation.tables import watched_tables
from cachebackend.invalidation.writes import Write
from cachebackend.models import OutboxRow
from tests.integration.test_writes import FAMILY, MAKE, WAYS, Readable
from tests.zoo.models import FAMILIES, Account, Author, Nickname, Sample, Singer, Topic

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


@pytest.fixture(autouse=True)
def empty_outbox() -> None:
    """The first test of a process finds rows that the migrations of the test database have written."""
    OutboxRow.objects.all().delete()


def relay() -> None:
    """Run the relay as it finds the rows when they are old enough."""
    OutboxRow.objects.update(created=Now() - timedelta(seconds=5))
    invalidation.relay()


def words(captured: CaptureQueriesContext) -> list[str]:
    return [query["sql"].split()[0] for query in captured if "ringcache.wrote" not in query["sql"]]


@pytest.mark.parametrize("way", [way for way in WAYS if way != "a strict row"])
def test_the_relay_finishes_what_a_dead_writer_has_written(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outbox holds everything that the statements of any way to write make wrong."""
    family = FAMILY.get(way, "relations")
    rows = MAKE[family]()
    readable = Readable(*FAMILIES[family])
    readable.read()
    with monkeypatch.context() as patch:
        patch.setattr(PendingDeletes, "delete", lambda self: self.keys)
        WAYS[way](rows)
    relay()
    assert readable.differences() == []
    assert not OutboxRow.objects.exists()


def test_no_relay_acts_on_the_row_of_a_running_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would delete the keys a second time."""
    with monkeypatch.context() as patch:
        patch.setattr(PendingDeletes, "delete", lambda self: self.keys)
        Author.objects.create(name="a")
    assert invalidation.relay().rows == 0
    assert OutboxRow.objects.count() == 1


def test_an_outbox_row_names_a_limited_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large update writes several; all are deleted when the nodes have confirmed."""
    Author.objects.bulk_create([Author(name=f"a{number}") for number in range(5)])
    monkeypatch.setattr(statement_outbox, "ROWS_PER_OUTBOX_ROW", 2)
    monkeypatch.setattr(statement_outbox, "RETURNED_ROWS", 2)
    with monkeypatch.context() as patch:
        patch.setattr(PendingDeletes, "delete", lambda self: self.keys)
        assert Author.objects.update(rank=F("rank") + 1) == 5
    states = [len(row.rows or ()) for row in OutboxRow.objects.all()]
    assert sorted(states) == [2, 4, 4]  # before and after
    relay()
    assert Author.objects.update(rank=F("rank") + 1) == 5
    assert not OutboxRow.objects.exists()


@pytest.fixture
def no_rows_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an UPDATE or DELETE return no rows if it may change several."""
    monkeypatch.setattr(statement_outbox, "RETURNED_ROWS", 0)


@pytest.mark.usefixtures("no_rows_returned")
@pytest.mark.parametrize("version", [old_rows.POSTGRES_18, 10**9], ids=["this version", "before 18"])
@pytest.mark.parametrize(
    "way", [way for way in WAYS if "delete" in way or "update" in way or "migration" in way]
)
def test_rows_that_are_not_returned_are_read_from_the_outbox(
    way: str, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that they make wrong is deleted, and then the outbox rows."""
    monkeypatch.setattr(old_rows, "POSTGRES_18", version)
    rows = MAKE[family := FAMILY.get(way, "relations")]()
    readable = Readable(*FAMILIES[family])
    readable.read()
    WAYS[way](rows)
    assert readable.differences() == []


@pytest.mark.usefixtures("no_rows_returned")
def test_rows_that_are_not_returned_are_counted() -> None:
    """The result is that of Django."""
    Author.objects.bulk_create([Author(name=name) for name in "abc"])
    assert Author.objects.filter(name__in="ab").update(name=Concat("name", Value("x"))) == 2
    assert Author.objects.filter(name="none").update(rank=1) == 0
    assert Author.objects.filter(name__in=["ax", "c"])._raw_delete("default") == 2
    assert [author.name for author in Author.objects.all()] == ["bx"]


@pytest.mark.usefixtures("no_rows_returned")
def test_a_row_that_cannot_be_read_deletes_everything_of_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys are not known."""
    one, other = (Author.objects.create(name=name) for name in "ab")
    Author.cached.in_bulk([one.pk, other.pk])

    def fail(*_: Any) -> Any:
        raise ValueError

    monkeypatch.setattr(stored_changes, "rows_of_texts", fail)
    Author.objects.filter(name="a").update(rank=7)
    with CaptureQueriesContext(connection) as captured:
        assert Author.cached.in_bulk([one.pk, other.pk])[one.pk].rank == 7
    assert captured[0]["sql"].count(str(other.pk)) > 0


@pytest.mark.usefixtures("no_rows_returned")
def test_the_relay_has_all_rows_of_a_writer_that_cannot_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that is committed does not raise."""
    author = Author.objects.create(name="a")
    Author.cached.get(pk=author.pk)

    def fail(*_: Any) -> Any:
        raise OperationalError

    with monkeypatch.context() as patch:
        patch.setattr(stored_changes, "_texts", fail)
        assert Author.objects.filter(name="a").update(rank=7) == 1
    relay()
    assert Author.cached.get(pk=author.pk).rank == 7


@pytest.mark.usefixtures("no_rows_returned")
def test_an_outbox_row_that_a_relay_has_deleted_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay may begin while a large statement is still at work on its outbox rows."""
    author = Author.objects.create(name="a")
    Author.cached.get(pk=author.pk)
    texts = stored_changes._texts

    def after_a_relay(*arguments: Any) -> Any:
        relay()
        return texts(*arguments)

    monkeypatch.setattr(stored_changes, "_texts", after_a_relay)
    monkeypatch.setattr(PendingDeletes, "add_stored", lambda *_, **__: pytest.fail("there is nothing to do"))
    Author.objects.filter(name="a").update(rank=7)
    assert Author.cached.get(pk=author.pk).rank == 7


def test_many_keys_are_deleted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node could not delete all of them in the time that a command may take, and would count as down."""
    lengths: list[int] = []
    delete_many = protocol.delete_many

    def counted(context: Any, keys: Any, **options: Any) -> Any:
        lengths.append(len(keys))
        return delete_many(context, keys, **options)

    Author.objects.bulk_create([Author(name=f"a{number}") for number in range(9)])
    authors = Author.cached.in_bulk(list(Author.objects.values_list("pk", flat=True)))
    monkeypatch.setattr(protocol, "delete_many", counted)
    monkeypatch.setattr(deletes, "KEYS_PER_SCATTER", 4)
    Author.objects.update(rank=7)
    assert max(lengths) == 4
    assert sum(lengths) >= 2 * len(authors)
    assert {row.rank for row in Author.cached.in_bulk(list(authors)).values()} == {7}


def test_an_update_that_keeps_the_lookup_values_deletes_no_keys_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The entry of a lookup holds the primary key, which is right. A save sets every column."""
    author = Author.objects.create(name="a")
    deleted: list[PendingDeletes] = []
    monkeypatch.setattr(PendingDeletes, "delete", lambda self: deleted.append(self) or {})
    author.rank = 5
    author.save()
    author.name = "b"
    author.save()
    same, renamed = (
        [key for group in each.keys.values() for key in group if b":name:" in key] for each in deleted
    )
    assert (len(same), len(renamed)) == (0, 2)


def test_a_statement_that_changes_nothing_writes_no_row() -> None:
    """Its result is that of Django."""
    assert Author.objects.filter(name="none").update(rank=1) == 0
    assert Author.objects.filter(name="none").delete() == (0, {})
    assert not OutboxRow.objects.exists()


def test_a_row_in_which_nothing_changed_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys are the same before and after the statement. One row alone may be named twice."""
    author = Author.objects.create(name="a")
    monkeypatch.setattr(PendingDeletes, "delete", lambda self: self.keys)
    Author.objects.filter(name="a").update(rank=F("rank"))
    Author.objects.filter(name="a").update(name="b")
    Author.objects.filter(pk=author.pk).update(rank=F("rank"))
    same, renamed, alone = OutboxRow.objects.order_by("pk")
    assert [row["name"] for row in same.rows or ()] == ["a"]
    assert [row["name"] for row in renamed.rows or ()] == ["a", "b"]
    assert [row["name"] for row in alone.rows or ()] == ["b", "b"]


def test_the_short_text_of_a_column_is_the_one_of_a_trigger() -> None:
    """The relay reads both: a process of another release may have written the row."""
    topic = Topic.objects.create(name="2026-11-30")
    moment = datetime(2026, 11, 30, 23, 59, 59, 999_999, tzinfo=UTC)
    day, code = date(1, 1, 1), UUID(int=1)
    Sample.objects.create(name="a")
    Sample.objects.create(
        name="b", small=-1, large=2**62, flag=False, price=Decimal("-0.5000"), at=moment, day=day, code=code
    )
    Sample.objects.create(
        name="c",
        flag=True,
        price=Value("NaN"),
        label=' "\\ü\u2028 ',
        slug="",
        file="a/b.txt",
        topic_name=topic,
    )
    Sample.objects.create(
        name="d", label="NULL", weight=1e300, data={"a": [1.50, None]}, note="\n", price=Decimal("1E+3")
    )
    fields = Sample._meta.local_concrete_fields
    long, short = (
        row_texts.object_of((each.attname, text(each, f'"{each.column}"')) for each in fields)
        for text in (lambda _, column: row_texts.text_of(column), row_texts.short_text_of)
    )
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT ({long})::text, ({short})::text FROM {Sample._meta.db_table}")
        rows = cursor.fetchall()
    assert len(rows) == 4
    assert [long for long, _ in rows] == [short for _, short in rows]


def test_a_column_of_a_table_of_others_may_have_another_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """Postgres casts a million in a ``real`` to the text 1e+06: the relay cannot read that as an integer."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE zoo_nickname ALTER code TYPE real")
    forget_catalogues()
    try:
        with pytest.raises(Nickname.DoesNotExist):  # which is cached
            Nickname.cached.get(code=1_000_000)
        with monkeypatch.context() as patch:
            patch.setattr(PendingDeletes, "delete", lambda self: self.keys)
            Nickname.objects.create(name="a", code=1_000_000)
        relay()
        assert Nickname.cached.get(code=1_000_000).name == "a"
    finally:
        Nickname.objects.all().delete()
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE zoo_nickname ALTER code TYPE integer")
        forget_catalogues()


def test_a_statement_in_a_transaction_leaves_its_row_to_the_commit() -> None:
    """A transaction has one outbox row for all its statements."""
    Author.objects.create(name="first")  # what the database says of the table is read once
    with CaptureQueriesContext(connection) as captured, transaction.atomic():
        Author.objects.create(name="a")
        Author.objects.update(rank=5)
    assert words(captured) == ["BEGIN", "INSERT", "UPDATE", "INSERT", "COMMIT", "DELETE"]


def begins(row: models.Model) -> bool:
    """Return whether a save of the row begins a transaction."""
    with CaptureQueriesContext(connection) as captured:
        row.save()
    return "BEGIN" in words(captured)


@pytest.mark.parametrize("model", [Account, Singer])
def test_a_row_that_needs_a_transaction_has_one(model: Any) -> None:
    """Strict keys are put in quarantine before the commit, and the rows of triggers are taken then."""
    assert begins(model.objects.create(name="a"))


def test_the_keys_of_a_namespace_are_made_before_the_commit(settings: Any) -> None:
    """The relay does not know the namespace of the writer."""
    author = Author.objects.create(name="a")
    settings.RINGCACHE = {"namespace": f"{__name__}.namespace"}
    assert begins(author)


def namespace() -> str:
    """The namespace of one of the tests."""
    return "tenant"


def test_a_table_whose_triggers_may_change_cached_rows_needs_a_transaction() -> None:
    """The writer takes in what triggers name of other tables."""
    author = Author.objects.create(name="a")
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION zoo_nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
            "CREATE TRIGGER zoo_nothing AFTER UPDATE ON zoo_author EXECUTE FUNCTION zoo_nothing()"
        )
    forget_catalogues()
    try:
        assert begins(author)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION zoo_nothing CASCADE")
        forget_catalogues()


def test_a_failed_statement_leaves_no_row() -> None:
    """And nothing is invalidated."""
    Author.objects.create(name="a")
    with pytest.raises(IntegrityError):
        Author.objects.create(name="a")
    assert not OutboxRow.objects.exists()


def test_an_update_that_reads_columns_back_writes_its_outbox_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django 6.1 reads the columns of expressions back, and gets all rows."""
    monkeypatch.setattr(statement_outbox, "RETURNED_ROWS", 1)
    Author.objects.bulk_create([Author(name="a"), Author(name="b")])
    query = Author.objects.all().query.chain(models.sql.UpdateQuery)
    query.add_update_values({"rank": F("rank") + 1})
    compiler = query.get_compiler(connection=connection)
    statement = Write(compiler, watched_tables(Author._meta.db_table), type(compiler).execute_sql)
    with (
        CaptureQueriesContext(connection) as captured,
        statement.committed_with_its_outbox_row(reads_back=True),
    ):
        rows = statement.update_returning([Author._meta.get_field("rank")])
    assert [tuple(row) for row in rows] == [(1,), (1,)]
    assert words(captured)[:1] == ["WITH"]
    assert not OutboxRow.objects.exists()


def test_a_statement_in_a_pipeline_of_the_driver_is_committed_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Psycopg commits the statements of a pipeline at its end: deletes before that would be too early."""
    author = Author.objects.create(name="a")
    seen: list[Any] = []

    def delete(_: PendingDeletes) -> dict[str, set[bytes]]:
        with ThreadPoolExecutor(1) as pool:
            seen.extend(pool.submit(ranks).result())
        return {}

    monkeypatch.setattr(PendingDeletes, "delete", delete)
    with connection.connection.pipeline():
        Author.objects.filter(pk=author.pk).update(rank=2)
    assert seen == [2]


def ranks() -> list[int]:
    """Return what is committed, as another connection reads it."""
    try:
        return list(Author.objects.values_list("rank", flat=True))
    finally:
        connection.close()


def test_a_model_may_have_any_number_of_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of Postgres takes at most 100 arguments, and a lookup needs two."""
    statement_outbox._text_around.cache_clear()
    monkeypatch.setattr(row_texts, "COLUMNS_PER_OBJECT", 1)
    author = Author.objects.create(name="a")
    monkeypatch.setattr(PendingDeletes, "delete", lambda self: self.keys)
    Author.objects.filter(pk=author.pk).update(name="b")
    [row] = OutboxRow.objects.all()
    assert [(row["id"], row["name"]) for row in row.rows or ()] == [(str(author.pk), name) for name in "ab"]
