"""The audit and the command: what is cached, held against the database."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from cachebackend import RingCache
from cachebackend.invalidation import outbox
from cachebackend.managers.audit import audit, cached_managers
from cachebackend.models import OutboxRow
from cacheproject.demo.models import Article

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


@pytest.fixture
def articles() -> list[Article]:
    """Ten rows, all cached."""
    made = Article.objects.bulk_create([Article(slug=f"a{n}", title=f"A {n}") for n in range(10)])
    Article.cached.in_bulk([article.pk for article in made])
    return made


def run(*words: str) -> tuple[dict[str, Any], int]:
    out = StringIO()
    try:
        call_command("invalidation", *words, "--json", stdout=out)
    except SystemExit as end:
        return json.loads(out.getvalue()), int(str(end.code))
    return json.loads(out.getvalue()), 0


def behind_its_back(article: Article) -> None:
    """Change a row as a program would that knows nothing of the cache."""
    Article._base_manager.filter(pk=article.pk)._update([(Article._meta.get_field("title"), None, "changed")])


def test_what_is_right_has_all_nines(articles: list[Article]) -> None:
    """And nobody waits for it."""
    found = audit(Article.cached, sleep=lambda _: pytest.fail("waited"))
    assert (found.sampled, found.cached) == (10, 10)
    assert found.consistent(0.0) == 1.0
    assert found.nines(60.0) == math.inf
    assert Article.cached in cached_managers()


def test_what_differs_is_looked_at_again_and_told_by_the_window(articles: list[Article]) -> None:
    """One entry is mended within five seconds, another never."""
    for article in articles[:2]:
        behind_its_back(article)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if sum(waited) == 5:
            Article.cached.cache.delete(f"demo.article:id:{articles[0].pk}")

    found = audit(Article.cached, windows=(0.0, 1.0, 5.0), sleep=sleep)
    assert found.differing == {0.0: 2, 1.0: 2, 5.0: 1}
    assert waited == [1.0, 4.0]
    assert found.consistent(5.0) == pytest.approx(0.9)
    assert found.nines(5.0) == pytest.approx(1.0)


def test_the_command_says_what_it_found_and_exits_by_it(articles: list[Article]) -> None:
    """0 if all is right after the last window, else 1."""
    told, code = run("audit", "--windows", "0")
    assert code == 0
    assert told["demo.Article"] == {
        "sampled": 10,
        "cached": 10,
        "consistent": {"0 s": 1.0},
        "nines": {"0 s": None},
    }
    behind_its_back(articles[0])
    told, code = run("audit", "--windows", "0")
    assert code == 1
    assert told["demo.Article"]["consistent"] == {"0 s": 0.9}


def test_status_and_relay_tell_what_is_owed(ring_cache: RingCache) -> None:
    """A row that is owed for long is not well; the relay settles it."""
    assert run("status") == ({"rows": 0, "lag_seconds": 0.0}, 0)
    outbox.write_row("default", {"default": {ring_cache.key_bytes("k")}})
    OutboxRow.objects.update(created=Now() - timedelta(seconds=30))
    told, code = run("status")
    assert (told["rows"], code) == (1, 1)
    assert told["lag_seconds"] >= 30
    told, code = run("relay")
    assert (told["rows"], told["keys"], told["left"], code) == (1, 1, 0, 0)
    assert run("status")[1] == 0


def test_bad_words_are_told() -> None:
    """By Django's parser, and by ours."""
    with pytest.raises(CommandError, match="--sample must be at least 1"):
        call_command("invalidation", "audit", "--sample", "0")
    with pytest.raises(CommandError, match="windows are seconds"):
        call_command("invalidation", "audit", "--windows", "soon")


def test_the_audit_task_runs(articles: list[Article]) -> None:
    """In place, as Celery would; all is right, so nothing is waited for."""
    from cachebackend.schedule import beat_schedule
    from cachebackend.tasks import audit as task

    assert task.apply().get() == 0
    assert set(beat_schedule()) == {"ringcache.tick", "ringcache.relay"}
    assert set(beat_schedule(audit_interval=3600)) == {"ringcache.tick", "ringcache.relay", "ringcache.audit"}
