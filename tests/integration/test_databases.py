"""Several databases, SQLite among them; requests in transactions; Django's TestCase."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIRequest
from django.db import connections, transaction
from django.db.models.functions import Now
from django.http import HttpResponse
from django.test import RequestFactory, TestCase

from cachebackend import RingCache, checks, invalidate, invalidation
from cachebackend.invalidation import pending_deletes
from cachebackend.models import OutboxRow
from cacheproject.demo.models import Article

both = pytest.mark.django_db(transaction=True, databases=["default", "lite"])
with_nodes = pytest.mark.usefixtures("empty_nodes")


class Killed(BaseException):
    """Simulates the end of an application's process."""


def test_a_check_refuses_a_schema_for_each_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engines of django-tenants and its relatives have a method that switches the schema."""
    assert checks.check_tenant_schemas() == []
    engine = type(connections["default"])
    monkeypatch.setattr(engine, "set_schema", lambda _, name: None, raising=False)
    [error] = [each for each in checks.check_tenant_schemas() if "'default'" in each.msg]
    assert error.id == "ringcache.E007"
    assert "Database 'default' has a schema for each tenant" in error.msg


@both
@with_nodes
def test_each_database_has_its_own_transactions_and_outbox(
    ring_cache: RingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite too, which has no SKIP LOCKED: the relay processes the row that a crash leaves."""
    article = Article(pk=7_000_000, slug="lite", title="Lite")
    article.save(using="lite")
    [stored] = Article.cached.keys_of([{"pk": article.pk}], "lite")
    key = stored.decode().removeprefix(f"{ring_cache.key_prefix}:1:")
    ring_cache.set(key, "old")
    with transaction.atomic(using="lite"):
        article.save(using="lite")
        with transaction.atomic(using="default"):
            Article.objects.create(slug="other", title="Other")
        assert ring_cache.get(key) == "old"
    assert ring_cache.get(key) is None
    ring_cache.set(key, "old")

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed), transaction.atomic(using="lite"):
        patch.setattr(pending_deletes.PendingDeletes, "delete", die)
        Article.objects.using("lite").filter(pk=7_000_000).update(title="New")
    assert (OutboxRow.objects.using("lite").count(), OutboxRow.objects.count()) == (1, 0)
    OutboxRow.objects.using("lite").update(created=Now() - timedelta(seconds=5))
    relayed = invalidation.relay()
    assert (relayed.rows, relayed.pending) == (1, 0)
    assert relayed.lag >= 5
    assert ring_cache.get(key) is None


@both
@with_nodes
def test_a_rollback_of_another_database_does_not_discard_the_invalidation_of_a_tag(
    ring_cache: RingCache,
) -> None:
    """The tag's own database is in no transaction, so the tag is invalidated at once too."""
    ring_cache.get_or_set("report", lambda: "old", tags=["report"])
    with pytest.raises(ZeroDivisionError), transaction.atomic(using="lite"):
        invalidate("report")
        raise ZeroDivisionError
    assert ring_cache.get("report") is None


@pytest.mark.django_db(transaction=True)
@with_nodes
def test_a_request_in_a_transaction_invalidates_when_it_ends(ring_cache: RingCache) -> None:
    """With ``ATOMIC_REQUESTS``: a response commits and deletes the keys, an error does neither."""
    from django.core.handlers.base import BaseHandler

    article = Article.objects.create(slug="first", title="First")

    def view(request: WSGIRequest) -> HttpResponse:
        Article.objects.filter(pk=article.pk).update(title=request.GET["title"])
        assert Article.cached.get(pk=article.pk).title == request.GET["title"]
        if "fail" in request.GET:
            raise ZeroDivisionError
        return HttpResponse("done")

    connections["default"].settings_dict["ATOMIC_REQUESTS"] = True
    try:
        atomic_view: Any = BaseHandler().make_view_atomic(view)
        Article.cached.get(pk=article.pk)
        with pytest.raises(ZeroDivisionError):
            atomic_view(RequestFactory().get("/", {"title": "Lost", "fail": "1"}))
        assert Article.cached.get(pk=article.pk).title == "First"
        atomic_view(RequestFactory().get("/", {"title": "New"}))
        assert Article.cached.get(pk=article.pk).title == "New"
    finally:
        connections["default"].settings_dict["ATOMIC_REQUESTS"] = False


@with_nodes
class TestInsideTestCase(TestCase):
    """Tests of a project, which never commit: they read what they wrote, and leave nothing cached."""

    def test_a_written_row_is_read(self) -> None:
        """By save and by update, although nothing is committed."""
        article = Article.objects.create(slug="case", title="Old")
        assert Article.cached.get(slug="case").title == "Old"
        Article.objects.filter(pk=article.pk).update(title="New")
        assert Article.cached.get(slug="case").title == "New"
        with self.captureOnCommitCallbacks(execute=True):
            article.title = "Newer"
            article.save()
        assert Article.cached.get(slug="case").title == "Newer"
        article.delete()
        with pytest.raises(Article.DoesNotExist):
            Article.cached.get(slug="case")
