"""Projects whose ``CACHES`` has no ring: in development, in tests, in CI."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.management import CommandError, call_command
from django.db import connection, models, transaction
from django.test.utils import CaptureQueriesContext, isolate_apps

from cachebackend import InvalidatingManager, cached, checks, invalidate
from cachebackend.invalidation import watched
from cachebackend.models import OutboxRow
from cachebackend.monitoring import workers
from cachebackend.monitoring.processes import ProcessFigures
from cachebackend.options import WriteBehindOptions
from cachebackend.telemetry.processes import Process
from cachebackend.testing import empty_ring
from cacheproject.demo.models import Article
from cacheproject.services import Services
from tests.shop.models import Bookcase, Note, Product, Tag

pytestmark = pytest.mark.django_db(transaction=True)
BACKENDS = {
    "local memory": {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    "dummy": {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}},
    "another alias": {
        "default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
        "other": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
    },
}


@pytest.fixture(autouse=True, params=BACKENDS.values(), ids=BACKENDS)
def without_ring(request: pytest.FixtureRequest, settings: Any) -> None:
    settings.CACHES = request.param


def test_reads_load_from_the_database(call: Callable[..., Any]) -> None:
    """By primary key, by lookup and many at once, with one query each, as the managers of Django."""
    article = Article.objects.create(slug="first", title="First")
    assert call(Article.cached, "get", pk=article.pk) == article
    assert call(Article.cached, "get", slug="first").title == "First"
    assert call(Article.cached, "in_bulk", [article.pk, 0]) == {article.pk: article}
    with pytest.raises(Article.DoesNotExist, match="Article with slug='gone' does not exist."):
        call(Article.cached, "get", slug="gone")
    with CaptureQueriesContext(connection) as captured:
        Article.cached.get(slug="first")
        Article.cached.in_bulk([article.pk])
    assert len(captured) == 2


def test_tasks_whose_last_run_nobody_stores_are_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their last runs are unknown. A worker that is missing is found by the reports of the processes."""
    monkeypatch.setattr(workers, "write_behind_options", lambda: WriteBehindOptions(nodes=("q",)))  # type: ignore[arg-type]
    figures = workers.worker_figures()
    assert (figures.last_runs, figures.faults) == (None, [])
    worker, beat = (Process(kind, kind, "h", 1, "celery", "1", 0.0, {}) for kind in ("worker", "beat"))
    for processes, kinds in (([worker, beat], []), ([worker], ["no-beat"]), ([], ["no-worker"])):
        found = workers.worker_figures(ProcessFigures(processes)).faults
        assert [fault.kind for fault in found] == kinds
        assert not found or found[0].message.endswith(", so tick does not run.")


def test_reads_follow_the_base_manager_and_the_class() -> None:
    """They return what the cache would."""
    note, bookcase = (
        Note.objects.create(text="x", removed=True),
        Bookcase.objects.create(name="Oak", height=2),
    )
    with pytest.raises(Note.DoesNotExist):
        Note.cached.get(pk=note.pk)
    assert Bookcase.cached.get(name="Oak").height == 2
    assert list(Bookcase.cached.in_bulk([str(bookcase.pk)])) == [bookcase.pk]


CHANGES: dict[str, Callable[[Article], object]] = {
    "save": lambda article: article.save(),
    "update": lambda article: Article.objects.update(title="New"),
    "bulk_create": lambda article: Article.objects.bulk_create([Article(slug="b"), Article(slug="c")]),
    "delete": lambda article: article.delete(),
    "relation": lambda article: Product.objects.create(name="p").tags.add(Tag.objects.create(name="t")),
    "invalidate": lambda article: invalidate(article, Article, "front"),
    "invalidate in an alias": lambda article: invalidate("front", alias="default"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("in_transaction", [False, True])
def test_writes_pass_without_work(change: Callable[[Article], object], in_transaction: bool) -> None:
    """No write raises, and the outbox gets no row."""
    article = Article.objects.create(slug="first", title="First")
    article.title = "New"
    if in_transaction:
        with transaction.atomic():
            change(article)
    else:
        change(article)
    assert OutboxRow.objects.count() == 0


def test_a_model_of_a_project_without_a_ring_is_a_tag_in_a_ring(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tests may replace the cache by a ring, long after the model is defined."""
    monkeypatch.setattr(watched, "_dependents", dict(watched._dependents))
    with isolate_apps("tests.shop"):

        class Leaf(models.Model):
            objects = InvalidatingManager()

            class Meta:
                app_label = "shop"

    assert watched.dependents_of(Leaf) == []
    with empty_ring(location=services.ring_urls) as ring:
        ring.get_or_set("page", lambda: "old", tags=[Leaf])
        invalidate(Leaf(pk=1))
        assert ring.get("page") is None


calls: list[int] = []


@cached(60, tags=[Article])
def count(start: int) -> int:
    calls.append(start)
    return len(calls)


@cached(60)
async def count_async(start: int) -> int:
    calls.append(start)
    return len(calls)


def test_cached_functions_are_called_each_time() -> None:
    """Functions and coroutine functions; there is nothing to invalidate."""
    calls.clear()
    assert (count(1), count(1), count.refresh(1), count.invalidate(1)) == (1, 2, 3, False)

    async def use() -> list[object]:
        return [await count_async(1), await count_async.refresh(1), await count_async.invalidate(1)]

    assert async_to_sync(use)() == [4, 5, False]


def test_a_check_says_once_what_is_not_cached() -> None:
    """One warning for each alias, which names all that use it."""
    [warning] = checks.check_aliases()
    assert warning.id == "ringcache.W005"
    assert "CACHES['default'] is not a ring cache" in warning.msg
    assert "demo.Article.cached" in warning.msg
    assert "functions with @cached" in warning.msg


@pytest.mark.parametrize(
    "command", ["ring status", "ring doctor", "ring cleanup", "ring owner k", "invalidation audit"]
)
def test_commands_say_that_there_is_no_ring(command: str, settings: Any) -> None:
    """And do not report that everything is well."""
    settings.WRITE_BEHIND = {}
    with pytest.raises(CommandError, match="ring cache"):
        call_command(*command.split(), stdout=StringIO())
