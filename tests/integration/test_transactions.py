"""When keys are deleted: by Django's commits, by those of a program, and by captured callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connection, connections, transaction
from django.test import TestCase

from cachebackend import RingCache
from cachebackend.models import OutboxRow
from cacheproject.demo.models import Article

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


@pytest.fixture
def article() -> Article:
    """A row that is cached."""
    article = Article.objects.create(slug="first", title="First")
    Article.cached.get(slug="first")
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


@pytest.mark.usefixtures("manual")
@pytest.mark.parametrize("write", WRITES)
def test_a_rollback_of_the_program_deletes_nothing(article: Article, write: Callable[..., None]) -> None:
    """And the transaction after it writes no outbox row."""
    write(article, "New")
    transaction.rollback()
    assert cached_title() == "First"
    transaction.commit()
    assert in_thread(OutboxRow.objects.count) == 0


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
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '1ms'")
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
