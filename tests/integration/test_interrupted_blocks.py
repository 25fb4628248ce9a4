"""A signal handler that raises while the driver waits, or in a block that catches it and is committed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import connection, transaction

from cachebackend import RingCache
from cacheproject.demo.models import Article
from tests.zoo.models import Profile

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("empty_nodes"),
    pytest.mark.postgres,
]
#: Makes an UPDATE of a table wait in its COMMIT.
SLOW_COMMIT = """
CREATE FUNCTION pg_temp.wait() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER waiting AFTER UPDATE ON {table} DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION pg_temp.wait();
"""


class SoftLimitError(Exception):
    """What the handler raises."""


@pytest.fixture
def article() -> Article:
    """A row that is cached."""
    article = Article.objects.create(slug="a", title="old")
    assert Article.cached.get(pk=article.pk).title == "old"
    return article


@pytest.fixture
def alarm() -> Iterator[Callable[[], None]]:
    """Return what makes the handler raise soon."""

    def handle(*_: Any) -> None:
        raise SoftLimitError

    before = signal.signal(signal.SIGALRM, handle)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, 0.1) and None
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def save(article: Article) -> None:
    article.title = "new"
    article.save()


def update(article: Article) -> None:
    Article.objects.filter(pk=article.pk).update(title="new")


def raw_delete(article: Article) -> None:
    Article.objects.filter(pk=article.pk)._raw_delete("default")


def delete(article: Article) -> None:
    article.delete()


@pytest.mark.parametrize("write", [save, update, raw_delete, delete])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_write_that_is_interrupted_and_committed_leaves_no_copy(
    ring_cache: RingCache, article: Article, write: Callable[[Article], None], error: type[BaseException]
) -> None:
    """A loop that Ctrl-C ends keeps what it has done: Django marks no transaction for rollback."""

    def interrupted(execute: Callable[..., Any], *arguments: Any) -> Any:
        execute(*arguments)
        raise error

    with transaction.atomic(), pytest.raises(error), connection.execute_wrapper(interrupted):
        write(article)
    stored = [row.title for row in Article.objects.all()]
    assert stored != ["old"]
    assert [row.title for row in Article.cached.in_bulk([article.pk]).values()] == stored


@pytest.mark.parametrize("is_in_block", [True, False], ids=["atomic", "autocommit"])
def test_the_connection_serves_after_an_interrupted_clean_up(
    ring_cache: RingCache, article: Article, alarm: Callable[[], None], is_in_block: bool
) -> None:
    """The outbox row is deleted after the commit: callbacks follow, and further statements."""

    def slow(execute: Callable[..., Any], sql: Any, *arguments: Any) -> Any:
        if sql.startswith('DELETE FROM "cachebackend_outboxrow"'):
            sql = sql.replace("DELETE", "WITH slow AS (SELECT pg_sleep(1) AS slept) DELETE", 1)
            sql += " AND (SELECT count(slept) FROM slow) = 1"
            alarm()
        return execute(sql, *arguments)

    called: list[int] = []
    with pytest.raises(SoftLimitError), connection.execute_wrapper(slow):
        if is_in_block:
            with transaction.atomic():
                update(article)
                transaction.on_commit(lambda: called.append(Group.objects.count()))
        else:
            update(article)
    assert called == [0] * is_in_block
    assert Article.objects.get().title == "new"


def test_the_callbacks_are_served_after_an_interrupted_refill(
    ring_cache: RingCache, alarm: Callable[[], None]
) -> None:
    """A row that is cached when it is written is loaded again after the commit."""
    profile = Profile.objects.create(name="old")

    def slow(execute: Callable[..., Any], sql: Any, *arguments: Any) -> Any:
        if sql.startswith("SELECT") and Profile._meta.db_table in sql:
            sql = sql.replace("SELECT", "SELECT pg_sleep(1),", 1)
            alarm()
        return execute(sql, *arguments)

    called: list[int] = []
    with pytest.raises(SoftLimitError), connection.execute_wrapper(slow), transaction.atomic():
        Profile.objects.filter(pk=profile.pk).update(name="new")
        transaction.on_commit(lambda: called.append(Group.objects.count()))
    assert called == [0]


@pytest.mark.parametrize("is_cached", [True, False], ids=["cached", "not cached"])
def test_an_interrupted_commit_raises_what_the_handler_raises(
    ring_cache: RingCache, article: Article, alarm: Callable[[], None], is_cached: bool
) -> None:
    """The driver still waits for the COMMIT, and refuses to turn autocommit on."""
    group = Group.objects.create(name="old")
    table = (Article if is_cached else Group)._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(SLOW_COMMIT.format(table=table))  # it is dropped with its session
    with pytest.raises(SoftLimitError), transaction.atomic():
        if is_cached:
            update(article)
        else:
            Group.objects.filter(pk=group.pk).update(name="new")
        alarm()
    with transaction.atomic():
        assert Group.objects.count() == 1
