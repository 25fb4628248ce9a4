"""Triggers in migrations, and what checks say where they are impossible."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import models
from django.test.utils import isolate_apps

from cachebackend import CachedManager, checks, invalidation
from cachebackend.invalidation import trigger_rows, triggers, watched
from cachebackend.models import OutboxRow
from tests.shop.models import Author, Poem

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


def made_by(command: str, *words: str, **options: Any) -> str:
    """Return the output of a command for the shop, whose migrations create the triggers of these tests."""
    output = io.StringIO()
    call_command(command, "shop", *words, stdout=output, **options)
    return output.getvalue()


def makemigrations() -> str:
    return made_by("makemigrations", dry_run=True, verbosity=3)


def test_the_migrations_name_every_lookup() -> None:
    """Although pgtrigger compiles a trigger for a model of a migration's state, which has no lookups."""
    sql = made_by("sqlmigrate", "0001")
    for table in ("author", "poem", "sonnet"):
        for statement in ("INSERT", "UPDATE", "DELETE", "TRUNCATE"):
            assert f'{statement} ON "shop_{table}"' in sql
    assert sql.count("""to_jsonb(n."name") #>> '{}'""") == 4
    assert sql.count("""to_jsonb(o."name") #>> '{}'""") == 1  # UPDATE has two transition tables
    assert 'ON "shop_tag"\n' not in sql


def test_the_migrations_have_the_triggers_of_the_models() -> None:
    """A second ``makemigrations`` finds no changes."""
    assert "No changes" in makemigrations()


def test_triggers_of_an_earlier_release_need_a_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their SQL differs, so that ``makemigrations`` replaces them."""
    monkeypatch.setattr(triggers, "CHANNEL", "another_channel")
    made = makemigrations()
    assert "Remove trigger ringcache_insert from model author" in made
    assert "Create trigger ringcache_insert on model author" in made


def test_without_a_ring_the_same_triggers_are_made(settings: Any) -> None:
    """Migrations are often made on a machine that has no nodes."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    assert "No changes" in makemigrations()


def test_the_sql_of_the_triggers_has_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed text, even of a comment or a warning, makes a migration in every project with triggers.

    If that is intended, change the hashes here and say so in the changelog.
    """
    monkeypatch.setattr(watched, "_dependents", dict(watched._dependents))
    monkeypatch.setattr(trigger_rows, "_triggered", set(trigger_rows._triggered))
    with isolate_apps("tests.shop"):

        class Verse(models.Model):
            name = models.CharField(max_length=9, unique=True)
            cached = CachedManager(lookups=["name"], triggers=True)

            class Meta:
                app_label = "shop"

    hashes = {trigger.name: trigger.compile(Verse).hash for trigger in Verse._meta.triggers}
    assert hashes == {
        "ringcache_insert": "fe066ece9f4f56903a9f387f21d0b06c71f9f8fa",
        "ringcache_update": "51e96fde27e54ab81782b0c6e8bbe89dfed2032d",
        "ringcache_delete": "c4aadea7e193fc983233568f94dae7de1b2b8c6b",
        "ringcache_truncate": "d1a3689b2ba4d32c6e3376740759b2566c6618ce",
    }


def test_the_change_of_a_removed_model_is_set_aside(caplog: pytest.LogCaptureFixture) -> None:
    """Its trigger may still exist, or a newer release has the model."""
    OutboxRow.objects.create(label="shop.gone", rows=[{"id": "1"}])
    assert invalidation.relay().rows == 0
    assert "the project has no model of this name" in caplog.text
    assert OutboxRow.objects.get().rows is None


def test_without_pgtrigger_the_manager_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the model class is created, and not when a change is missed."""
    monkeypatch.delitem(sys.modules, "cachebackend.invalidation.triggers")
    monkeypatch.delattr("cachebackend.invalidation.triggers")
    monkeypatch.setitem(sys.modules, "pgtrigger", None)
    with (
        isolate_apps("tests.shop"),
        pytest.raises(ImproperlyConfigured, match=r"django-ringcache\[triggers\]"),
    ):

        class Ballad(models.Model):
            cached = CachedManager["Ballad"](triggers=True)

            class Meta:
                app_label = "shop"


def test_checks_report_where_triggers_are_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the app pgtrigger, on tables that are not managed, and on databases other than Postgres."""
    assert checks.check_triggers_app() == checks.check_trigger_databases() == []
    monkeypatch.setattr(checks.caching.apps, "is_installed", lambda name: name != "pgtrigger")
    assert {(message.id, message.obj) for message in checks.check_triggers_app()} >= {
        ("ringcache.E003", Author),
        ("ringcache.E003", Poem),
    }
    monkeypatch.undo()
    monkeypatch.setattr(Poem._meta, "managed", False)
    [unmanaged] = checks.check_triggers_app()
    assert (unmanaged.id, unmanaged.obj) == ("ringcache.E003", Poem)
    assert "not managed by Django" in unmanaged.msg
    monkeypatch.setattr(checks.caching.router, "db_for_write", lambda _: "lite")
    messages = checks.check_trigger_databases()
    assert {message.id for message in messages} == {"ringcache.E004"}
    assert "SQLite" in messages[0].msg
