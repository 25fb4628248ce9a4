"""System checks of what the drains of write-behind need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.db import models
from django.db.migrations.recorder import MigrationRecorder
from django.test.utils import isolate_apps

from cachebackend import WriteBehindManager, checks
from cachebackend.checks import drains
from cachebackend.telemetry import heartbeat
from cachebackend.writebehind import queue
from cacheproject.processes import MANAGE

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("empty_nodes")]
LOCAL = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}


def ids(messages: list[Any]) -> list[str]:
    return [message.id for message in messages]


def test_a_project_that_is_set_up_well_has_no_fault() -> None:
    """The demo's own settings; a worker was seen."""
    heartbeat.record_run("tick")
    for name in drains.__all__:
        assert getattr(checks, name)(databases=["default"]) == []


def test_a_manager_without_queue_nodes_is_reported(settings: Any) -> None:
    """And nothing else, because nothing is queued that needs draining."""
    settings.WRITE_BEHIND = {}
    [warning] = checks.check_write_behind_nodes()
    assert warning.id == "ringcache.W006"
    assert "shop.Meter" in warning.msg
    settings.CELERY_BEAT_SCHEDULE = {}
    assert checks.check_write_behind_schedule() == []
    settings.WRITE_BEHIND = {"nodes": "nonsense"}
    assert checks.check_write_behind_nodes() == []  # ringcache.E002 reports it


@pytest.mark.parametrize("schedule", [None, {}, {"mail": {"task": "site.mail", "schedule": 1.0}}])
def test_a_schedule_without_tick_is_reported(settings: Any, schedule: Any) -> None:
    """No schedule, an empty one, and one of other tasks."""
    settings.CELERY_BEAT_SCHEDULE = schedule
    assert ids(checks.check_write_behind_schedule()) == ["ringcache.W007"]


def test_a_worker_that_was_never_seen_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only by ``check --database``: the other checks ask no server."""
    [warning] = checks.check_write_behind_workers(databases=["default"])
    assert (warning.id, warning.msg.endswith("ever.")) == ("ringcache.W008", True)
    assert checks.check_write_behind_workers() == []
    with monkeypatch.context() as patch:
        patch.setattr(drains, "is_empty", lambda _: True)  # no worker can run before the first `migrate`
        assert checks.check_write_behind_workers(databases=["default"]) == []
    heartbeat.record_run("tick")
    monkeypatch.setattr(drains, "MAX_TICK_AGE", -1.0)
    assert ids(checks.check_write_behind_workers(databases=["default"])) == ["ringcache.W008"]


def test_a_project_without_a_ring_cache_is_reported(settings: Any) -> None:
    """Nothing then stores when the tasks last ran."""
    settings.CACHES = LOCAL
    assert ids(checks.check_write_behind_ring()) == ["ringcache.W009"]
    assert checks.check_write_behind_workers(databases=["default"]) == []


@pytest.mark.own_connections
def test_connections_that_an_asgi_project_keeps_are_reported(settings: Any) -> None:
    """Each thread keeps one."""
    settings.ASGI_APPLICATION, settings.WSGI_APPLICATION = "site.asgi.application", None
    assert ids(checks.check_write_behind_connections()) == ["ringcache.W010"]


@pytest.mark.parametrize(
    ("options", "is_reported"),
    [({"counters": ["count"]}, True), ({"counters": ["count"], "updates_only": True}, False), ({}, False)],
)
@isolate_apps("tests.shop")
def test_counters_that_cannot_be_written_through_are_reported(
    settings: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], is_reported: bool
) -> None:
    """A queued creation or deletion would undo the addition, so the setting has no effect for them."""
    monkeypatch.setattr(queue, "_models", [])

    class Visit(models.Model):
        count = models.IntegerField(default=0)
        behind = WriteBehindManager["Visit"](fields=["count"], **options)

        class Meta:
            app_label = "shop"

    assert checks.check_write_behind_fallback() == []
    settings.WRITE_BEHIND = settings.WRITE_BEHIND | {"on_unavailable": "write_through"}
    assert ids(checks.check_write_behind_fallback()) == ["ringcache.W016"] * is_reported


def test_a_database_without_the_migrations_is_reported() -> None:
    """The message names those that are missing."""
    last = MigrationRecorder.Migration.objects.filter(app="cachebackend").latest("pk")
    last.delete()
    [warning] = checks.check_write_behind_migrations(databases=["default"])
    assert warning.id == "ringcache.W012"
    assert f"lacks the migrations {last.name} of cachebackend" in warning.msg


@pytest.mark.parametrize("manager", ["WriteBehindManager(fields=['count'])", "CachedManager()"])
def test_a_manager_without_the_app_is_refused(manager: str, tmp_path: Path) -> None:
    """The checks of an app that is not installed do not run, so its models raise the error."""
    (tmp_path / "plain.py").write_text("INSTALLED_APPS = ['django.contrib.contenttypes', 'site_pages']\n")
    (tmp_path / "site_pages").mkdir()
    (tmp_path / "site_pages" / "models.py").write_text(
        "from django.db import models\n"
        "from cachebackend import CachedManager, WriteBehindManager\n"
        "class Page(models.Model):\n"
        "    count = models.IntegerField(default=0)\n"
        f"    manager = {manager}\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "django", "check", "--settings", "plain"],
        env=os.environ | {"PYTHONPATH": f"{MANAGE.parent}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    last_line = ran.stderr.strip().splitlines()[-1]
    assert last_line.endswith(
        "ImproperlyConfigured: cachebackend.models is imported, but INSTALLED_APPS does not contain "
        "'cachebackend': add it, and run manage.py migrate"
    )
