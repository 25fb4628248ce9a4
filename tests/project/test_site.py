"""The demo site: pages through the cache, sessions in it, views counted by write-behind."""

from __future__ import annotations

import os
import signal
import time

import pytest
import redis
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext

from cachebackend import RingCache, writebehind
from cacheproject.demo.models import Article
from cacheproject.processes import celery_worker
from cacheproject.services import Services

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


@pytest.fixture
def article() -> Article:
    """A row with a page."""
    return Article.objects.create(slug="first", title="First <b>", body="The body.")


def test_an_articles_page_is_read_through_the_cache_and_its_view_counted(
    article: Article, client: Client
) -> None:
    """The third request makes no database query; all views are stored."""
    for _ in range(2):  # the first request finds the row by its slug, the second one by its primary key
        assert client.get("/articles/first/").status_code == 200
    with CaptureQueriesContext(connection) as captured:
        page = client.get("/articles/first/").content.decode()
    assert len(captured) == 0
    assert "First &lt;b&gt;" in page
    assert "The body." in page
    for partition, _ in writebehind.dirty_partitions():
        writebehind.drain(partition)
    article.refresh_from_db()
    assert article.views == 3
    assert article.last_viewed is not None


def test_a_saved_article_shows_at_once(article: Article, client: Client) -> None:
    """The page after the save is the new one, with the template's cached fragment."""
    client.get("/articles/first/")
    article.body = "Rewritten."
    article.save()
    assert "Rewritten." in client.get("/articles/first/").content.decode()


def test_an_article_that_is_not_there_is_not_found(client: Client) -> None:
    """It is a 404, and no view is counted."""
    assert client.get("/articles/none/").status_code == 404
    assert writebehind.dirty_partitions() == []


def test_the_list_is_a_cached_page(article: Article, client: Client) -> None:
    """``cache_page`` on the ring: the second request makes no database query."""
    first = client.get("/").content
    with CaptureQueriesContext(connection) as captured:
        second = client.get("/").content
    assert len(captured) == 0
    assert first == second
    assert b"First &lt;b&gt;" in second


@override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cache")
def test_sessions_live_on_the_ring(client: Client, ring_cache: RingCache) -> None:
    """Logging in needs no session table, and the session ends when the ring deletes it."""
    client.force_login(get_user_model().objects.create_superuser("root"))
    assert client.get("/admin/").status_code == 200
    ring_cache.clear()
    assert client.get("/admin/").status_code == 302


@pytest.mark.parametrize("dead", [["ring-a", "ring-b", "ring-c"], ["queue-a"], ["postgres"]], ids=str)
def test_the_site_stays_up(article: Article, client: Client, services: Services, dead: list[str]) -> None:
    """Without the ring it reads the database, without the queue it counts no view, hits need no database."""
    for address in ("/", "/articles/first/", "/articles/first/"):
        assert client.get(address).status_code == 200
    for name in dead:
        services.kill(name)
    try:
        for _ in range(5):  # until each breaker is open, and after that
            for address in ("/", "/articles/first/"):
                response = client.get(address)
                assert response.status_code == 200
                assert "First &lt;b&gt;" in response.content.decode()
    finally:
        for name in dead:
            services.restart(name)
        connection.close()


@pytest.mark.usefixtures("prefix_of_tests")
def test_the_site_stays_up_with_the_worker_dead(
    article: Article, client: Client, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the worker is dead, pages are served and saved; a new worker drains the queued views."""
    database = f"{os.environ['DATABASE_URL'].rpartition('/')[0]}/{connection.settings_dict['NAME']}"
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("WRITE_BEHIND_FLUSH_INTERVAL", "0.2")
    views = 0
    with celery_worker(1) as worker:
        end = time.monotonic() + 60
        while not Article.objects.filter(views__gt=0).exists():
            assert client.get("/articles/first/").status_code == 200
            views += 1
            assert time.monotonic() < end
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
    for title in ("Second", "Third"):
        article.title = title
        article.save(update_fields=["title"])
        assert title in client.get("/articles/first/").content.decode()
    assert client.get("/").status_code == 200
    assert writebehind.dirty_partitions() != []
    while dirty := writebehind.dirty_partitions():
        for partition, _ in dirty:
            writebehind.drain(partition)
    article.refresh_from_db()
    assert article.views == views + 2
    assert services.broker_url is not None
    with redis.Redis.from_url(services.broker_url) as broker:
        broker.flushall()  # tasks that the dead worker did not take


def test_static_files_are_served_without_a_server_of_their_own(client: Client) -> None:
    """Also with ``DEBUG`` off: those of the ring page and of the admin."""
    for name in ("cachebackend/ring.css", "admin/css/base.css"):
        found = client.get(f"/static/{name}")
        assert found.status_code == 200
        assert found.headers["Content-Type"].startswith("text/css")
        found.close()
