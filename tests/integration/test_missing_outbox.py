"""An outbox whose table is renamed, moved or dropped while the process runs."""

from __future__ import annotations

import pytest
from django.db import ProgrammingError, connection
from django.test.utils import CaptureQueriesContext

from cachebackend import invalidation
from cachebackend.models import OutboxRow
from cacheproject.demo.models import Article
from tests.zoo.models import Author

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
    pytest.mark.postgres,
]


def rename(old: str, new: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")


def test_writes_continue_without_the_table_after_one_error(caplog: pytest.LogCaptureFixture) -> None:
    """The database is asked again after the error; the table is used again when it is back."""
    article = Article.objects.create(slug="first", title="First")
    rename("cachebackend_outboxrow", "renamed")
    try:
        with pytest.raises(ProgrammingError):
            article.save()
        Article.cached.get(slug="first")
        article.title = "Second"
        article.save()
        assert Article.cached.get(slug="first").title == "Second"
        assert [record.event for record in caplog.records if hasattr(record, "event")] == ["outbox_missing"]
        assert invalidation.relay().failed == {}
    finally:
        rename("renamed", "cachebackend_outboxrow")
    with CaptureQueriesContext(connection) as captured:
        article.save()
    assert any(OutboxRow._meta.db_table in query["sql"] for query in captured.captured_queries)


def test_the_relay_looks_again_after_one_error() -> None:
    """A process that only relays has the same mechanism."""
    assert invalidation.relay().failed == {}
    rename("cachebackend_outboxrow", "renamed")
    try:
        assert "default" in invalidation.relay().failed
        assert invalidation.relay().failed == {}
    finally:
        rename("renamed", "cachebackend_outboxrow")
    assert invalidation.outbox_lag("default") == 0.0


def test_statements_that_write_their_own_row_look_again_after_one_error() -> None:
    """A statement in autocommit names the table, too."""
    Author.objects.create(name="a")
    rename("cachebackend_outboxrow", "renamed")
    try:
        with pytest.raises(ProgrammingError):
            Author.objects.create(name="b")
        Author.objects.create(name="c")
    finally:
        rename("renamed", "cachebackend_outboxrow")
