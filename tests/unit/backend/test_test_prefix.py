"""The key prefix of tests."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.cache import caches
from django.db import connections
from django.db.backends.base.creation import BaseDatabaseCreation

from cachebackend.backend import client_cache, test_prefix
from cachebackend.backend.scope import database_text

with_test_prefix = test_prefix.with_test_prefix


def queue_prefix() -> str:
    return test_prefix.queue_options().prefix


def name_database(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(connections.settings["default"], "NAME", name)


@pytest.fixture(autouse=True)
def _no_test_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_prefix, "_test_databases", set())


@pytest.mark.parametrize("name", ["site", "/srv/site.sqlite3", "attest", ""])
def test_a_site_has_the_prefix_of_its_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every name of its database, except those that Django gives to test databases."""
    name_database(monkeypatch, name)
    assert with_test_prefix("shop") == "shop"


@pytest.mark.parametrize("name", ["test_site", "/srv/test_site.sqlite3", "test_site_gw1"])
def test_a_test_database_is_part_of_the_prefix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that a test starts knows it by its name alone."""
    name_database(monkeypatch, name)
    assert f"default@{with_test_prefix('shop').removeprefix('shop+')}" == database_text("default")


def test_the_steps_of_django_set_the_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process of tests has its own; when the test database is gone, the site's prefix is back."""

    def name_it(creation: BaseDatabaseCreation, name: str) -> None:
        name_database(monkeypatch, name)
        creation.connection.settings_dict["NAME"] = name

    cache: Any = caches["default"]
    before = cache.key_prefix
    for module in (client_cache, test_prefix):
        monkeypatch.setattr(module, "with_test_prefix", with_test_prefix)
    erased: list[str] = []
    creation = connections["default"].creation
    monkeypatch.setitem(connections["default"].settings_dict, "NAME", "site")
    name_database(monkeypatch, "site")
    test_prefix.queue_options.cache_clear()
    steps = {
        step: test_prefix._and_set_prefixes(step, name_it, lambda: erased.append(queue_prefix()))
        for step in ("create_test_db", "setup_worker_connection", "destroy_test_db")
    }
    prefixes = []
    for step, name in (
        ("create_test_db", "own"),
        ("setup_worker_connection", "own_2"),
        ("destroy_test_db", "site"),
    ):
        steps[step](creation, name)
        prefixes += [cache.key_prefix, queue_prefix()]
    monkeypatch.undo()
    test_prefix.queue_options.cache_clear()
    cache.set_prefix()
    assert prefixes == ["demo+own", "wb+own", "demo+own_2", "wb+own_2", "demo", "wb"]
    assert erased == ["wb+own", "wb+own_2", "wb+own_2"]
    assert cache.key_prefix == before
