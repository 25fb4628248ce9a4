"""The audit and its command: cached rows are compared with the database."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models.functions import Now

from cachebackend import RingCache
from cachebackend.invalidation import outbox
from cachebackend.managers.audit import audit, cached_managers
from cachebackend.models import OutboxRow
from cacheproject.demo.models import Article
from tests.zoo.models import Novel

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


@pytest.fixture
def articles() -> list[Article]:
    """Ten rows, all cached."""
    created = Article.objects.bulk_create([Article(slug=f"a{n}", title=f"A {n}") for n in range(10)])
    Article.cached.in_bulk([article.pk for article in created])
    return created


def run(*arguments: str) -> tuple[dict[str, Any], int]:
    out = StringIO()
    try:
        call_command("invalidation", *arguments, "--json", stdout=out)
    except SystemExit as end:
        return json.loads(out.getvalue()), int(str(end.code))
    return json.loads(out.getvalue()), 0


def change_without_invalidating(article: Article) -> None:
    """Change a row without invalidating it, as a program that does not know the cache would."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE demo_article SET title = 'changed' WHERE id = %s", [article.pk])


def test_right_rows_have_infinite_nines(articles: list[Article]) -> None:
    """And the audit does not wait."""
    result = audit(Article.cached, sleep=lambda _: pytest.fail("waited"))
    assert (result.sampled, result.cached) == (10, 10)
    assert result.consistent(0.0) == 1.0
    assert result.nines(60.0) == math.inf
    assert Article.cached in cached_managers()


def test_a_row_with_nan_is_right() -> None:
    """NaN does not equal itself."""
    novel = Novel.objects.create(name="a", weight=math.nan)
    Novel.cached.get(pk=novel.pk)
    assert Novel.cached.differing([novel.pk]) == []
    with connection.cursor() as cursor:
        cursor.execute("UPDATE zoo_novel SET weight = 1")
    assert Novel.cached.differing([novel.pk]) == [novel.pk]


def test_rows_that_differ_are_compared_again_after_each_window(articles: list[Article]) -> None:
    """One cached row becomes right within five seconds, another never does."""
    for article in articles[:2]:
        change_without_invalidating(article)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if sum(waited) == 5:
            Article.cached.cache.delete(Article.cached.key_of(pk=articles[0].pk))

    result = audit(Article.cached, windows=(0.0, 1.0, 5.0), sleep=sleep)
    assert result.differing == {0.0: 2, 1.0: 2, 5.0: 1}
    assert waited == [1.0, 4.0]
    assert result.consistent(5.0) == pytest.approx(0.9)
    assert result.nines(5.0) == pytest.approx(1.0)


def test_the_audit_command_prints_its_result_and_sets_its_exit_code(articles: list[Article]) -> None:
    """The exit code is 0 if every row is right after the last window, else 1."""
    result, code = run("audit", "--windows", "0")
    assert code == 0
    assert result["demo.Article"] == {
        "sampled": 10,
        "cached": 10,
        "consistent": {"0 s": 1.0},
        "nines": {"0 s": None},
    }
    change_without_invalidating(articles[0])
    result, code = run("audit", "--windows", "0")
    assert code == 1
    assert result["demo.Article"]["consistent"] == {"0 s": 0.9}


def test_status_and_relay_report_pending_deletes(ring_cache: RingCache) -> None:
    """``status`` fails if a row is pending for long; the relay deletes its keys."""
    assert run("status") == ({"rows": 0, "lag_seconds": 0.0}, 0)
    outbox.write_row("default", {"default": {ring_cache.key_bytes("k")}})
    OutboxRow.objects.update(created=Now() - timedelta(seconds=30))
    result, code = run("status")
    assert (result["rows"], code) == (1, 1)
    assert result["lag_seconds"] >= 30
    result, code = run("relay")
    assert (result["rows"], result["keys"], result["left"], code) == (1, 1, 0, 0)
    assert run("status")[1] == 0


def test_status_names_the_unit_of_each_figure() -> None:
    """In the text; the keys of the JSON are short."""
    out = StringIO()
    call_command("invalidation", "status", stdout=out)
    assert out.getvalue() == "outbox rows: 0\nage of the oldest outbox row, in seconds: 0.0\n"


def test_bad_arguments_are_refused() -> None:
    """By Django's parser, and by the command's own checks."""
    with pytest.raises(CommandError, match="--sample must be at least 1"):
        call_command("invalidation", "audit", "--sample", "0")
    for windows in ("soon", "nan", "0,nan", "1,inf"):
        with pytest.raises(CommandError, match="windows are seconds, such as 0,1,5; not"):
            call_command("invalidation", "audit", "--windows", windows)


def test_the_audit_task_runs(articles: list[Article]) -> None:
    """Called directly, as Celery would call it; every row is right, so it does not wait."""
    from cachebackend.schedule import beat_schedule
    from cachebackend.tasks import audit as task

    assert task.apply().get() == 0
    assert set(beat_schedule()) == {"ringcache.tick", "ringcache.relay"}
    assert set(beat_schedule(audit_interval=3600)) == {"ringcache.tick", "ringcache.relay", "ringcache.audit"}
