"""When keys are deleted: by Django's commits, by those of a program, and by captured callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import Group
from django.db import DataError, OperationalError, ProgrammingError, connection, connections, transaction
from django.db.models.functions import Now
from django.db.transaction import TransactionManagementError
from django.test import TestCase, override_settings
from psycopg.sql import SQL

from cachebackend import RingCache, invalidate, invalidation
from cachebackend.backend import find_ring_cache
from cachebackend.backend.keys import content_of_change_key
from cachebackend.backend.tag_names import tag_name
from cachebackend.invalidation import confirmed_rows, key_parts, pending_deletes
from cachebackend.invalidation.deletes import values_and_tags
from cachebackend.invalidation.pending_deletes import PendingDeletes
from cachebackend.invalidation.stored_keys import unpack_keys
from cachebackend.models import OutboxRow
from cacheproject.demo.models import Article
from tests.zoo.models import Tenant
from tests.zoo.router import Tenants

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


@pytest.fixture
def article() -> Article:
    """A row that is cached."""
    article = Article.objects.create(slug="first", title="First")
    Article.cached.get(slug="first")
    Article.cached.get(pk=article.pk)
    return article


def in_thread(function: Callable[[], Any]) -> Any:
    """Call a function in a thread with connections of its own, and return its result."""

    def run() -> Any:
        try:
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def cached_title() -> str:
    """Return the title that another reader gets from the ring."""
    title: str = in_thread(lambda: Article.cached.get(slug="first").title)
    return title


# Without autocommit


@pytest.fixture
def manual(article: Article) -> Iterator[None]:
    """Turn autocommit off, as ``AUTOCOMMIT: False`` does."""
    transaction.set_autocommit(False)
    yield
    transaction.rollback()
    transaction.set_autocommit(True)


def save(article: Article, title: str) -> None:
    article.title = title
    article.save()


def save_in_atomic(article: Article, title: str) -> None:
    with transaction.atomic():
        save(article, title)


def save_in_savepoint(article: Article, title: str) -> None:
    with transaction.atomic(), transaction.atomic():
        save(article, title)


WRITES = [save, save_in_atomic, save_in_savepoint]


@pytest.mark.postgres
@pytest.mark.usefixtures("manual")
@pytest.mark.parametrize("write", WRITES)
def test_a_commit_of_the_program_deletes_the_keys(article: Article, write: Callable[..., None]) -> None:
    """Django runs no callbacks then. No transaction is left open, and the next one is handled as well."""
    for title in ("New", "Newer"):
        write(article, title)
        assert cached_title() != title
        transaction.commit()
        assert connection.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert cached_title() == title
        assert in_thread(OutboxRow.objects.count) == 0
        assert connection.run_on_commit == []


@pytest.mark.other_than_sqlite  # where Django commits each block
@pytest.mark.usefixtures("manual")
@pytest.mark.parametrize("write", WRITES)
def test_a_rollback_of_the_program_deletes_nothing(article: Article, write: Callable[..., None]) -> None:
    """And the transaction after it writes no outbox row."""
    write(article, "New")
    transaction.rollback()
    assert cached_title() == "First"
    transaction.commit()
    assert in_thread(OutboxRow.objects.count) == 0


@pytest.mark.postgres
@pytest.mark.usefixtures("manual")
@pytest.mark.parametrize(
    "commit",
    ["COMMIT", "end", "/* why */ COMMIT", "-- why\nCOMMIT", b"COMMIT", SQL("COMMIT"), "SELECT 1; COMMIT"],
)
def test_a_commit_by_sql_deletes_the_keys(article: Article, commit: Any) -> None:
    """After an outbox row. It leaves no transaction open, in which Postgres would not turn autocommit on."""
    stored: list[int] = []

    def look(execute: Callable[..., Any], sql: Any, *arguments: Any) -> Any:
        if sql == commit:
            stored.append(OutboxRow.objects.count())
        return execute(sql, *arguments)

    save(article, "New")
    assert [cached_title(), cached_title()] == ["First", "First"]
    with connection.execute_wrapper(look), connection.cursor() as cursor:
        cursor.execute(commit)
    assert stored == [1]
    assert connection.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert cached_title() == "New"
    transaction.set_autocommit(True)
    transaction.set_autocommit(False)


@pytest.mark.postgres
@pytest.mark.usefixtures("manual")
@pytest.mark.parametrize("commit", ["COMMIT AND CHAIN", "COMMIT; BEGIN"])
def test_a_commit_that_begins_another_transaction_deletes_the_keys(article: Article, commit: str) -> None:
    save(article, "New")
    assert [cached_title(), cached_title()] == ["First", "First"]  # the lookup is stored first, then the row
    with connection.cursor() as cursor:
        cursor.execute(commit)
    assert cached_title() == "New"
    save(article, "Newer")
    transaction.rollback()
    assert cached_title() == "New"


def run_statement() -> None:
    Article.objects.count()


@pytest.mark.postgres
@pytest.mark.usefixtures("manual")
@pytest.mark.parametrize("follow", [run_statement, transaction.rollback, transaction.commit])
def test_a_commit_by_the_driver_is_noticed_afterwards(article: Article, follow: Callable[[], None]) -> None:
    """By the next statement of the connection, or when the program ends a transaction."""
    for title in ("New", "Newer"):
        with connection.connection.transaction():
            save(article, title)
            assert cached_title() != title
        follow()
        assert cached_title() == title
        transaction.rollback()


@pytest.mark.postgres
@pytest.mark.usefixtures("manual")
@pytest.mark.parametrize("write", WRITES)
def test_a_block_of_the_driver_writes_outbox_rows(article: Article, write: Callable[..., None]) -> None:
    """Its commit is noticed only afterwards, and a process may be killed before that."""
    with connection.connection.transaction():
        write(article, "New")
        assert cached_title() == "First"  # and it is cached again
    assert in_thread(OutboxRow.objects.count) == 1
    transaction.rollback()
    assert cached_title() == "New"


@pytest.mark.postgres
@pytest.mark.usefixtures("manual")
def test_a_block_of_the_driver_inside_a_transaction_of_the_program(article: Article) -> None:
    """It is a savepoint, and the program commits."""
    save(article, "New")
    with connection.connection.transaction():
        save(article, "Newer")
    save(article, "Newest")
    assert cached_title() == "First"
    transaction.commit()
    assert cached_title() == "Newest"
    assert OutboxRow.objects.count() == 0


@pytest.mark.postgres
@pytest.mark.usefixtures("manual")
def test_a_commit_of_a_failed_transaction_rolls_it_back(article: Article) -> None:
    """As Postgres does; no outbox row can be written before it."""
    save(article, "New")
    with connection.cursor() as cursor:
        with pytest.raises(DataError):
            cursor.execute("SELECT 1 / 0")
        cursor.execute("COMMIT")
    assert cached_title() == "First"


@pytest.mark.postgres
@pytest.mark.usefixtures("manual")
def test_blocks_of_a_transaction_of_the_program_write_no_outbox_row(article: Article) -> None:
    """Nor do they put keys in quarantine, which may end long before the commit."""
    for title in ("New", "Newer"):
        save_in_atomic(article, title)
        assert OutboxRow.objects.count() == 0


# Callbacks after the commit


def test_a_callback_that_precedes_the_write_reads_the_new_row(article: Article) -> None:
    """The keys are deleted before any callback runs."""
    titles: list[str] = []
    with transaction.atomic():
        transaction.on_commit(lambda: titles.append(Article.cached.get(slug="first").title))
        save(article, "New")
    assert titles == ["New"]


def test_captured_callbacks_are_those_of_the_captured_block(article: Article, ring_cache: RingCache) -> None:
    """A test that captures callbacks runs the deletes, and not a callback from before the block."""
    called: list[str] = []
    with transaction.atomic():
        transaction.on_commit(lambda: called.append("earlier"))
        for title in ("New", "Newer"):
            with TestCase.captureOnCommitCallbacks(execute=True):
                save(article, title)
                transaction.on_commit(lambda: called.append("later"))
            assert ring_cache.get("first") is None
            assert Article.cached.get(slug="first").title == title
        assert called == ["later", "later"]
        transaction.set_rollback(True)
    assert cached_title() == "First"


# Locks


@pytest.mark.postgres
def test_an_update_does_not_lock_out_rows_that_refer_to_it() -> None:
    """As in plain Django: an INSERT of a child takes a lock that an UPDATE of other columns permits."""
    from tests.zoo.models import Author, Letter

    author = Author.objects.create(name="first")

    def insert() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '1ms'")
            Letter.objects.create(name=f"letter {Letter.objects.count()}", author_id=author.pk)

    with transaction.atomic():
        Author.objects.filter(pk=author.pk).update(rank=5)
        Author.objects.update(rank=6)
        in_thread(insert)
        Author.objects.filter(pk=author.pk).update(name="new")  # a column of a unique index
        with pytest.raises(OperationalError, match="lock timeout"):
            in_thread(insert)


def test_a_failed_statement_leaves_nothing_in_the_instance(article: Article, monkeypatch: Any) -> None:
    """And nothing pending."""

    def fail(*_: Any, **__: Any) -> None:
        raise OperationalError

    before = set(vars(article))
    monkeypatch.setattr("django.db.backends.utils.CursorWrapper._execute", fail)
    with pytest.raises(OperationalError):
        save(article, "New")
    monkeypatch.undo()
    assert set(vars(article)) == before
    assert cached_title() == "First"


# Transactions that Django does not manage


@contextmanager
def begun_by_sql() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            yield
        finally:  # the next test needs the connection
            cursor.execute("COMMIT")


@contextmanager
def begun_by_driver() -> Iterator[None]:
    connection.ensure_connection()
    with connection.connection.transaction():
        yield


def rename(article: Article, title: str) -> None:
    Article.objects.filter(pk=article.pk).update(title=title)


@pytest.mark.postgres
@pytest.mark.parametrize("begun", [begun_by_sql, begun_by_driver])
@pytest.mark.parametrize("write", [save, rename])
def test_a_transaction_past_django(
    article: Article, begun: Callable[[], Any], write: Callable[..., None]
) -> None:
    """Each write has its outbox row; the keys are deleted by the COMMIT, or by the next statement."""
    with begun():
        write(article, "New")
        assert Article.cached.get(slug="first").title == "New"
        assert cached_title() == "First"
        write(article, "Newer")
        assert Article.cached.get(slug="first").title == "Newer"
        assert OutboxRow.objects.count() == 2
    assert in_thread(OutboxRow.objects.count) == (0 if begun is begun_by_sql else 2)
    assert OutboxRow.objects.count() == 0  # it is a statement of the connection
    assert cached_title() == "Newer"


@pytest.mark.postgres
def test_no_error_takes_the_place_of_the_one_that_ends_a_commit(
    article: Article, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler raises while the outbox row is written, and the driver refuses the rollback."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    def refused() -> None:
        message = "another command is already in progress"
        raise OperationalError(message)

    with monkeypatch.context() as patch:
        patch.setattr("cachebackend.invalidation.statement.can_write_outbox_row", lambda *_: False)
        patch.setattr("cachebackend.invalidation.transaction_deletes.write_row", interrupted)
        patch.setattr(connection, "_rollback", refused)
        article.title = "Lost"
        with pytest.raises(ZeroDivisionError):
            article.save()
    assert Article.objects.get().title == cached_title() == "First"
    article.title = "Second"
    article.save()
    assert cached_title() == "Second"


@pytest.mark.parametrize("using", ["default", "lite"])
@pytest.mark.parametrize("model", [Article, Group], ids=["cached", "not cached"])
def test_a_block_that_is_interrupted_before_its_commit_is_rolled_back(
    model: Any, using: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler raises when Django calls the commit: then Django itself ends no transaction."""

    def interrupted() -> None:
        raise ZeroDivisionError

    rows = model.objects.using(using)
    with monkeypatch.context() as patch:
        patch.setattr(connections[using], "commit", interrupted)
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=using):
            rows.create(pk=1000)
    assert not rows.exists()
    rows.create(pk=1001)
    assert [row.pk for row in rows.all()] == [1001]


@pytest.mark.postgres
def test_the_relay_deletes_what_a_lost_connection_has_committed(article: Article) -> None:
    """The commit was not seen."""

    def write() -> None:
        with begun_by_driver():
            save(article, "New")

    in_thread(write)  # its connection ends with it
    assert cached_title() == "First"
    OutboxRow.objects.update(created=Now() - timedelta(seconds=60))  # the relay waits for the writer
    assert invalidation.relay().rows == 1
    assert cached_title() == "New"


@pytest.mark.postgres
def test_a_rollback_past_django(article: Article) -> None:
    """The outbox row is rolled back with the row."""
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        save(article, "New")
        assert Article.cached.get(slug="first").title == "New"
        cursor.execute("ROLLBACK")
    assert OutboxRow.objects.count() == 0
    assert cached_title() == "First"


@pytest.mark.postgres
@pytest.mark.parametrize("end", [transaction.commit, transaction.rollback])
def test_a_transaction_continues_that_django_may_not_end(article: Article, end: Callable[[], None]) -> None:
    """The driver refuses it inside its own block. Changes are still those of the open transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    with connection.connection.transaction():
        save(article, "New")
        with pytest.raises(ProgrammingError, match="forbidden within a Transaction"):
            end()
        assert cached_title() == "First"  # and it is cached again
        assert Article.cached.get(slug="first").title == "New"
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert cached_title() == "New"


@pytest.mark.postgres
@pytest.mark.parametrize("commit", ["COMMIT AND CHAIN", "COMMIT; BEGIN"])
def test_a_commit_past_django_may_begin_another_transaction(article: Article, commit: str) -> None:
    """Its keys are deleted at once, and its outbox row remains for the relay."""
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        save(article, "New")
        assert cached_title() == "First"
        cursor.execute(commit)
        assert cached_title() == "New"
        assert in_thread(OutboxRow.objects.count) == 1
        cursor.execute("ROLLBACK")
    assert OutboxRow.objects.count() == 0


@pytest.mark.postgres
def test_a_strict_row_is_not_changed_past_django(article: Article, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sees the commit before which its quarantine must be placed. The error says what to do."""
    monkeypatch.setattr(Article.cached, "is_strict", True)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        with pytest.raises(TransactionManagementError, match=r"use atomic\(\)"):
            save(article, "New")
        assert OutboxRow.objects.count() == 1  # if the program commits all the same
        cursor.execute("ROLLBACK")


@pytest.fixture
def tenants() -> Iterator[None]:
    """Read and write the models of tenants in SQLite."""
    with override_settings(DATABASE_ROUTERS=["tests.zoo.router.Tenants"]):
        Tenants.current = "lite"
        yield
        Tenants.current = "default"


@pytest.mark.usefixtures("tenants")
def test_a_transaction_of_sqlite_past_django() -> None:
    """``BEGIN IMMEDIATE`` is how programs avoid its deadlocks."""
    row = Tenant.objects.create(name="one", rank=1)
    assert Tenant.cached.get(pk=row.pk).rank == 1
    with connections["lite"].cursor() as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        Tenant.objects.update(rank=2)
        assert Tenant.cached.get(pk=row.pk).rank == 2
        cursor.execute("COMMIT")
    assert Tenant.cached.get(pk=row.pk).rank == 2
    assert OutboxRow.objects.using("lite").count() == 0


@pytest.mark.usefixtures("tenants")
def test_autocommit_that_is_turned_on_commits_with_deletes() -> None:
    """As the driver of SQLite commits then; Postgres refuses it."""
    row = Tenant.objects.create(name="one", rank=1)
    assert Tenant.cached.get(pk=row.pk).rank == 1
    transaction.set_autocommit(False, using="lite")
    Tenant.objects.update(rank=2)
    transaction.set_autocommit(True, using="lite")
    assert Tenant.cached.get(pk=row.pk).rank == 2
    assert OutboxRow.objects.using("lite").count() == 0


@pytest.mark.usefixtures("tenants")
def test_a_block_that_sqlite_commits_although_autocommit_is_off_is_invalidated() -> None:
    """The savepoint of the block begins SQLite's transaction, so its RELEASE commits it."""
    row = Tenant.objects.create(name="one", rank=1)
    assert Tenant.cached.get(pk=row.pk).rank == 1
    transaction.set_autocommit(False, using="lite")
    stored = []

    def look(execute: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        if sql.startswith("RELEASE"):
            stored.append(OutboxRow.objects.using("lite").count())
        return execute(sql, *arguments)

    with connections["lite"].execute_wrapper(look), transaction.atomic(using="lite"):
        Tenant.objects.update(rank=2)
    assert not connections["lite"].connection.in_transaction  # in which others could not write
    transaction.rollback(using="lite")
    transaction.set_autocommit(True, using="lite")
    assert stored == [1]  # so a crash after it leaves no stale row
    assert Tenant.objects.get().rank == 2
    assert Tenant.cached.get(pk=row.pk).rank == 2


# Many keys


@pytest.fixture
def short_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outbox row has 20 keys at most; those of two changed rows are made together."""
    monkeypatch.setattr(key_parts, "MOST_KEYS", 20)
    monkeypatch.setattr(pending_deletes, "ROWS_OF_UNIT", 2)


@pytest.fixture
def articles() -> list[Article]:
    """Rows that are cached under their primary keys and lookups, and that are tags."""
    Article.objects.bulk_create([Article(slug=f"a{number:02}", title="old") for number in range(20)])
    articles = list(Article.objects.all())
    Article.cached.in_bulk([article.pk for article in articles])
    return articles


@pytest.mark.usefixtures("short_rows")
def test_a_transaction_of_many_keys_writes_several_outbox_rows(
    articles: list[Article], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has the tags of its values, and the tags that the project names itself."""
    monkeypatch.setattr(PendingDeletes, "delete", lambda self: self.keys)
    with transaction.atomic():
        Article.objects.filter(slug__lt="a05").update(title="first")
        Article.objects.update(title="new")
        for article in articles[:10]:
            save(article, "again")
        invalidate("sidebar", alias="default")
    stored = [unpack_keys(bytes(row.keys))["default"] for row in OutboxRow.objects.filter(label="")]
    assert len(stored) > 2
    assert max(map(len, stored)) <= 20
    cache = find_ring_cache("default")
    assert cache is not None
    [sidebar] = cache.many_tag_bytes([tag_name("sidebar")])
    assert all(sidebar in group for group in stored)
    for article in articles:
        alone = PendingDeletes("default")
        alone.add_rows(Article, [{"pk": article.pk}])
        values, tags = values_and_tags(alone.keys)
        of_tags = {key for key in tags["default"] if content_of_change_key(key) is None}
        found = [group for group in stored if group & values["default"]]
        assert found
        assert all(of_tags <= group for group in found)


@pytest.mark.usefixtures("short_rows")
def test_the_relay_deletes_the_keys_of_all_outbox_rows(
    articles: list[Article], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer died after its commit."""
    with monkeypatch.context() as patch, transaction.atomic():
        patch.setattr(PendingDeletes, "delete", lambda self: self.keys)
        Article.objects.update(title="new")
        transaction.on_commit(patch.undo)
    OutboxRow.objects.update(created=Now() - timedelta(seconds=5))
    assert invalidation.relay().rows > 1
    assert not OutboxRow.objects.exists()
    titles = {row.title for row in Article.cached.in_bulk([article.pk for article in articles]).values()}
    assert titles == {"new"}


@pytest.mark.usefixtures("short_rows", "articles")
def test_all_outbox_rows_of_a_transaction_are_deleted_with_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every node has confirmed."""
    monkeypatch.setattr(confirmed_rows, "BATCH_SECONDS", 0)
    with transaction.atomic():
        Article.objects.update(title="new")
    assert not OutboxRow.objects.exists()
