"""``cachebackend.testing``: what it offers to the tests of other projects."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.contrib.auth.models import Group
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.test import override_settings

from cachebackend import cached, invalidate
from cachebackend.testing import assert_invalidates, embedded_nodes, empty_ring
from cachebackend.testing.embedded import MissingBinaryError
from cacheproject.demo.models import Article
from cacheproject.processes import MANAGE

pytestmark = pytest.mark.usefixtures("empty_nodes")
commits = pytest.mark.django_db(transaction=True)


@cached(60, tags=[Article, "front"])
def front_page() -> list[str]:
    return []


@pytest.fixture
def article() -> Article:
    return Article.objects.create(slug="x", title="Old")


@commits
def test_a_save_invalidates_a_row_and_its_tag(article: Article) -> None:
    """Under every key by which it is cached, in autocommit and after a transaction."""
    with assert_invalidates(article, Article):
        article.save()
    with assert_invalidates(article), transaction.atomic():
        article.save()
    with assert_invalidates("front"):
        invalidate("front")


@commits
def test_keys_that_were_not_invalidated_are_named(article: Article) -> None:
    """A write that Django does not see leaves the row cached, and values with its tags."""
    keys = r"not invalidated: .*demo_article:id:.*rows:.*demo_article"
    both = pytest.raises(AssertionError, match=keys)
    with both, assert_invalidates(article), connection.cursor() as cursor:
        cursor.execute("UPDATE demo_article SET title = 'New'")
    with pytest.raises(AssertionError, match="not invalidated: tag 'front'"), assert_invalidates("front"):
        pass


@commits
def test_a_target_that_the_block_reads_is_reported(article: Article) -> None:
    """A reader removes the mark of the row, so the test would pass although nothing was invalidated."""
    read = pytest.raises(
        AssertionError, match=r"read by the block, so it cannot be checked: .*demo_article:id:"
    )
    with read, assert_invalidates(article):
        Article.cached.get(pk=article.pk)
    with pytest.raises(AssertionError, match="not invalidated: tag 'front'"), assert_invalidates("front"):
        front_page()


@commits
def test_a_row_that_is_written_through_may_be_read(monkeypatch: pytest.MonkeyPatch, article: Article) -> None:
    """The write that invalidates it loads it again."""
    monkeypatch.setattr(Article.cached, "writes_through", True)
    with assert_invalidates(article):
        article.save()


@commits
def test_a_block_that_fails_leaves_nothing(article: Article) -> None:
    """Its own error is raised, and no mark remains on the nodes."""
    with pytest.raises(ZeroDivisionError), assert_invalidates(article, "front"):
        1 / 0  # noqa: B018  # the error is the point
    node_keys = [node.call((b"KEYS", b"*")) for node in cache.client.nodes]
    assert not any(b"demo_article" in key or b"front" in key for keys in node_keys for key in keys)


@commits
def test_a_row_that_nothing_caches_is_a_mistake_of_the_test() -> None:
    """Otherwise the test would pass with any block."""
    group = Group.objects.create(name="x")
    with pytest.raises(AssertionError, match=r"nothing is cached of auth\.Group"), assert_invalidates(group):
        pass


@pytest.mark.django_db
def test_a_test_that_never_commits_is_refused() -> None:
    """Keys are deleted after the commit, so in Django's ``TestCase`` none is deleted."""
    with pytest.raises(ImproperlyConfigured, match="TransactionTestCase"), assert_invalidates("front"):
        pass


@commits
def test_an_empty_ring_finds_nothing_and_leaves_nothing(article: Article) -> None:
    """It uses the same nodes with another prefix and other options; managers and functions use it."""
    cache.set("a", 1)
    with empty_ring(lease_on_get=True) as ring:
        assert cache.get("a") is None
        cache.set("a", 2)
        assert Article.cached.get(pk=article.pk).title == "Old"
        assert ring.client.context.options.lease_on_get
        left = ring.pattern
    assert cache.get("a") == 1
    for node in cache.client.nodes:
        assert node.call((b"SCAN", b"0", b"MATCH", left, b"COUNT", b"10000"))[1] == []  # type: ignore[index]


def test_a_ring_of_other_nodes_replaces_any_cache() -> None:
    """The nodes are started for the block and end with it; then the alias is as it was."""
    local = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    with override_settings(CACHES=local):
        with embedded_nodes(2) as urls:
            with empty_ring(location=urls, on_node_failure="raise") as ring:
                cache.set("k", 1)
                assert ring.get("k") == 1
                assert [node.name for node in ring.client.nodes] == ["a", "b"]
            assert cache.get("k") is None
        folder = Path(urls[0].removeprefix("unix://")).parent
        assert not folder.exists()


def test_no_other_user_of_the_machine_reaches_the_nodes() -> None:
    """They listen on sockets in a private folder, and on no port."""
    with embedded_nodes(1) as [url], empty_ring(location=[url]) as ring:
        folder = Path(url.removeprefix("unix://")).parent
        assert folder.stat().st_mode & 0o077 == 0
        [info] = [node.call((b"INFO", b"server")) for node in ring.client.nodes]
        assert b"tcp_port:0\r\n" in info  # type: ignore[operator]  # a text


def test_a_node_that_cannot_start_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the server's log, or with what to install."""
    server = tmp_path / "server"
    server.write_text("#!/bin/sh\necho no memory today\nexit 3\n")
    server.chmod(0o755)
    monkeypatch.setenv("VALKEY_SERVER", str(server))
    with pytest.raises(RuntimeError, match="no memory today"), embedded_nodes(1):
        pass
    monkeypatch.delenv("VALKEY_SERVER")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("cachebackend.testing.embedded.packaged", lambda *_: None)
    fails = pytest.raises(MissingBinaryError, match=r"django-ringcache\[testing\].*VALKEY_SERVER")
    with fails, embedded_nodes(1):
        pass


CONFTEST = 'pytest_plugins = ["cachebackend.testing.plugin"]\n'
SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "cachebackend"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
"""
TESTS = """
from django.core.cache import cache

def test_one(ring, ring_nodes):
    cache.set("k", 1)
    assert ring.get("k") == 1
    print(ring_nodes[0])

def test_another(ring):
    assert cache.get("k") is None
    assert len(ring.client.nodes) == 3
"""


def test_the_plugin_gives_each_test_an_empty_ring(tmp_path: Path) -> None:
    """In a project that configures no node; the servers end with the test run."""
    for name, text in (("conftest.py", CONFTEST), ("plain.py", SETTINGS), ("test_it.py", TESTS)):
        (tmp_path / name).write_text(text)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-qs", "-p", "no:randomly", "-W", "error", "--ds", "plain", "."],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{MANAGE.parent}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr
    found = re.search(r"unix://(\S+)/a\.sock", ran.stdout)
    assert found
    assert not Path(found[1]).exists()
