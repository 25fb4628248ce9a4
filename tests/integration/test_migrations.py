"""Migrations: data migrations of watched models, and what is cached when the tables change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.core.management import call_command
from django.core.management.sql import emit_post_migrate_signal
from django.db import connections
from django.db.migrations.loader import MigrationLoader
from django.test.utils import CaptureQueriesContext

from cachebackend import RingCache
from cachebackend.invalidation import outbox_table
from cachebackend.invalidation.migrations import _after_migrate
from cachebackend.invalidation.watched import watched_models
from cachebackend.models import OutboxRow, ParkedWrite
from cacheproject.demo.models import Article
from cacheproject.processes import MANAGE
from cacheproject.services import Services
from tests.zoo.models import Label, Post

pytestmark = pytest.mark.usefixtures("empty_nodes")


@pytest.fixture(params=["postgresql", "sqlite"])
def run(
    request: pytest.FixtureRequest, services: Services, tmp_path: Path
) -> Iterator[Callable[[str], list[str]]]:
    """Return a function that runs a script in a project whose database has no tables yet."""
    if request.param == "sqlite":
        yield _runner(f"sqlite:///{tmp_path / 'empty.sqlite3'}")
        return
    url = services.database_url
    if url is None:
        pytest.skip("needs Postgres")
    name = f"empty_{uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        yield _runner(f"{url.rpartition('/')[0]}/{name}")
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


#: Functions that the scripts of the tests call.
_SCRIPT = """
from django.core.management import call_command
from tests.signup.models import Account

def migrate(*target):
    call_command("migrate", *target, verbosity=0)

def show():
    print(", ".join(f"{each.name} {each.level}" for each in Account.objects.order_by("name")))

"""


def _runner(url: str) -> Callable[[str], list[str]]:
    env = os.environ | {"DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "tests.settings"}

    def run(script: str) -> list[str]:
        command = [sys.executable, str(MANAGE), "shell", "--no-imports", "--command", _SCRIPT + script]
        ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()

    return run


def test_data_migrations_may_run_before_the_outbox_has_its_table(run: Callable[[str], list[str]]) -> None:
    """They write rows of watched models, historical or not, and need no outbox row."""
    assert run("migrate(); show()") == ["historical 12, imported 12"]


def test_migrations_drop_what_is_cached_of_their_apps(run: Callable[[str], list[str]]) -> None:
    """Rows that they change by SQL, and values that are tagged with their models; not those of other apps."""
    lines = run("""
from django.core.cache import cache
migrate()
migrate("signup", "0002")
Account.objects.update(level=1)
cache.get_or_set("page", lambda: "old", tags=[Account])
row = Account.objects.get(name="imported")
cache.get_or_set("row", lambda: "old", tags=[row])
cache.set("kept", "kept")
print(Account.cached.get(name="imported").level, cache.get("page"), cache.get("row"))
migrate("signup")
print(Account.cached.get(name="imported").level, cache.get("page"), cache.get("row"), cache.get("kept"))
""")
    assert lines == ["1 old old", "11 None None kept"]


def test_migrations_before_one_that_fails_drop_what_is_cached(run: Callable[[str], list[str]]) -> None:
    """They are committed, and Django sends no signal."""
    lines = run("""
from django.db.migrations.executor import MigrationExecutor
migrate()
migrate("signup", "0002")
Account.objects.update(level=1)
apply = MigrationExecutor.apply_migration
def fail(*args, **kwargs):
    apply(*args, **kwargs)
    raise InterruptedError
def read():
    print(Account.cached.get(name="imported").level, Account.cached.filter(level=1).count())
MigrationExecutor.apply_migration = fail
read()
try:
    migrate("signup")
except InterruptedError:
    read()
""")
    assert lines == ["1 2", "11 0"]


@pytest.mark.django_db(transaction=True)
def test_migrations_drop_what_is_cached_of_both_ends_of_their_relations(ring_cache: RingCache) -> None:
    """An SQL statement in one of them may change a many-to-many table whose other end is of another app."""

    class AppOfPosts:
        label = "zoo"

        def get_models(self, include_auto_created: bool = False) -> list[Any]:
            return [Post, Post.labels.through] if include_auto_created else [Post]

    post, label = Post.objects.create(name="post"), Label.objects.create(name="label")
    assert Label.cached.filter(posts=post.pk).count() == 0
    ring_cache.get_or_set("posts", lambda: "none", tags=[label])
    with connections["default"].cursor() as cursor:
        cursor.execute(f"INSERT INTO zoo_post_labels (post_id, label_id) VALUES ({post.pk}, {label.pk})")
    app: Any = AppOfPosts()
    _after_migrate(app_config=app, using="default", plan=[(SimpleNamespace(app_label="zoo"), False)])
    assert Label.cached.filter(posts=post.pk).count() == 1
    assert ring_cache.get("posts") is None


@pytest.mark.other_than_sqlite
@pytest.mark.django_db
@pytest.mark.parametrize(("vendor", "length"), [("mysql", " (255)"), ("postgresql", "")])
def test_mysql_indexes_the_beginning_of_a_text(
    monkeypatch: pytest.MonkeyPatch, vendor: str, length: str
) -> None:
    """It refuses an index of a text without a length, and with it all migrations of the app."""
    [index] = [each for each in ParkedWrite._meta.indexes if each.name == "ringcache_parked_row"]
    with connections["default"].schema_editor(collect_sql=True) as editor:
        monkeypatch.setattr(connections["default"], "vendor", vendor)
        label, key = map(connections["default"].ops.quote_name, ("label", "key"))
        assert f"({label}, {key}{length})" in str(index.create_sql(ParkedWrite, editor))
        monkeypatch.undo()


def test_models_of_migration_states_are_not_watched() -> None:
    """Although their managers are attributes of such models too: ``use_in_migrations`` asks for it."""
    state = MigrationLoader(None).project_state(("signup", "0001_initial"))
    historical = state.apps.get_model("signup", "Account")
    assert type(historical.objects).__name__ == "AccountManager"
    assert historical not in watched_models()


@pytest.mark.django_db(transaction=True, databases=["default", "lite"])
@pytest.mark.parametrize("using", ["default", "lite"])
def test_the_outbox_is_asked_for_until_its_table_exists(using: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then no statement asks any more; the migrations of the app make it ask again."""
    monkeypatch.setattr(outbox_table, "_with_table", set())
    monkeypatch.setattr(OutboxRow._meta, "db_table", "ringcache_missing")
    with CaptureQueriesContext(connections[using]) as captured:
        assert not outbox_table.has_outbox(using)
        assert not outbox_table.has_outbox(using)
        assert len(captured) == 2
        monkeypatch.undo()
        assert outbox_table.look_for_outbox(using)
        assert outbox_table.has_outbox(using)
    assert len(captured) == 3


@pytest.mark.django_db(transaction=True)
def test_flush_drops_what_is_cached_of_every_app(ring_cache: RingCache) -> None:
    """It truncates the tables. A test case with serialized rows runs it without a signal."""
    article = Article.objects.create(slug="first", title="First")
    Article.cached.get(slug="first")
    connections["default"].ops.execute_sql_flush(["DELETE FROM demo_article"])
    with pytest.raises(Article.DoesNotExist):
        Article.cached.get(pk=article.pk)


def schema() -> str:
    """The namespace of a test."""
    return "tenant"


@pytest.mark.django_db(transaction=True)
def test_flush_drops_what_is_cached_of_every_namespace(ring_cache: RingCache, settings: Any) -> None:
    """It runs in one namespace, and empties the rows of all."""
    settings.RINGCACHE = {"namespace": f"{__name__}.schema"}
    article = Article.objects.create(slug="first", title="First")
    Article.cached.get(slug="first")
    for key, tag in (("all", Article), ("one", article)):
        ring_cache.get_or_set(key, "old", tags=[tag])
    settings.RINGCACHE = {}
    connections["default"].ops.execute_sql_flush(["DELETE FROM demo_article"])
    settings.RINGCACHE = {"namespace": f"{__name__}.schema"}
    assert ring_cache.get_many(["all", "one"]) == {}
    with pytest.raises(Article.DoesNotExist):
        Article.cached.get(slug="first")


@pytest.mark.django_db
def test_dumpdata_dumps_every_app() -> None:
    """The models of this app too: each has a table, or is a proxy."""
    OutboxRow.objects.all().delete()  # of migrations, which a process that is idle leaves to the relay
    out = StringIO()
    call_command("dumpdata", "cachebackend", stdout=out)
    assert json.loads(out.getvalue()) == []


@pytest.mark.django_db
def test_an_app_without_new_migrations_keeps_what_is_cached(ring_cache: RingCache) -> None:
    """``migrate`` with nothing to do is run at every start of many projects."""
    key = Article.cached.key_of(pk=1)
    ring_cache.set(key, "cached")
    emit_post_migrate_signal(verbosity=0, interactive=False, db="default", plan=[])
    assert ring_cache.get(key) == "cached"


@pytest.mark.django_db(transaction=True)
def test_a_node_that_misses_the_drop_is_cleared_later(
    ring_cache: RingCache, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """The outbox keeps the clear of the node; ``flush`` does not fail."""
    services.kill("ring-a")
    try:
        connections["default"].ops.execute_sql_flush([])
        assert ring_cache.client.nodes[0].endpoint in {row.node for row in OutboxRow.objects.all()}
    finally:
        services.restart("ring-a")
