"""The scope of rows: their database and the namespace."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import override_settings

from cachebackend.backend.scope import database_of, digest, is_safe, scope_of, scopes_of_write
from tests.shop.models import Tag

tenant: Any = "acme"


def current_tenant() -> Any:
    """The function that the setting names."""
    return tenant


IN_NAMESPACE = override_settings(RINGCACHE={"namespace": f"{__name__}.current_tenant"})


@pytest.fixture
def databases(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Replace the databases of the project: two servers with one database name, and a replica."""
    replaced = {
        "default": {"NAME": "site", "TEST": {"MIRROR": None}},
        "shard": {"NAME": "site", "TEST": {"MIRROR": None}},
        "replica": {"NAME": "site", "TEST": {"MIRROR": "default"}},
        "other": {"NAME": "other", "TEST": {"MIRROR": None}},
    }
    monkeypatch.setattr(connections, "settings", replaced)
    return replaced


def test_a_database_is_its_alias_and_its_present_name(databases: dict[str, dict[str, Any]]) -> None:
    """During tests the name is that of the test database."""
    assert scope_of("default") == "default@site"
    databases["default"]["NAME"] = "test_site_gw0"
    assert scope_of("default") == "default@test_site_gw0"


def test_servers_with_one_database_name_have_two_scopes(databases: dict[str, dict[str, Any]]) -> None:
    """A write deletes in both, because the two aliases may also lead to one database."""
    assert scope_of("shard") != scope_of("default")
    assert set(scopes_of_write("default")) == {"default@site", "shard@site"}
    assert scopes_of_write("other") == ["other@other"]


def test_a_file_may_be_named_by_a_path_or_a_text(databases: dict[str, dict[str, Any]]) -> None:
    """A write by one alias makes wrong what is cached under the other one."""
    databases["default"]["NAME"], databases["other"]["NAME"] = Path("/srv/db.sqlite3"), "/srv/db.sqlite3"
    assert scopes_of_write("other") == ["other@/srv/db.sqlite3", "default@/srv/db.sqlite3"]
    assert set(scopes_of_write("default")) == set(scopes_of_write("other"))


def test_a_replica_has_the_scope_of_its_primary(databases: dict[str, dict[str, Any]]) -> None:
    """As the settings declare it for Django's tests."""
    assert scope_of("replica") == "default@site"
    assert set(scopes_of_write("replica")) == {"default@site", "shard@site"}


@pytest.mark.parametrize("name", [":memory:", "file:memorydb_default?mode=memory&cache=shared"])
def test_a_database_in_memory_belongs_to_its_process(
    databases: dict[str, dict[str, Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has another database of this name."""
    databases["default"]["NAME"] = name
    scope = scope_of("default")
    assert scope == scope_of("default")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert scope_of("default") != scope


def test_an_unusual_name_is_hashed(databases: dict[str, dict[str, Any]]) -> None:
    """So no two pairs of alias and name have one scope, and the key needs no warning."""
    databases["default"]["NAME"] = "a b@c"
    assert scope_of("default") == f"default@{digest('a b@c')}"


@pytest.mark.usefixtures("databases")
def test_the_namespace_is_part_of_the_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's function is called each time; it must return a text."""
    with IN_NAMESPACE:
        assert scope_of("default") == "default@site+acme"
        monkeypatch.setitem(globals(), "tenant", "")
        assert scope_of("default") == "default@site"
        monkeypatch.setitem(globals(), "tenant", None)
        with pytest.raises(ImproperlyConfigured, match=r"current_tenant\(\) must return a str, not None"):
            scope_of("default")


def test_a_row_belongs_to_the_database_that_it_was_read_from() -> None:
    """A row that was not read: to the one that it will be written to."""
    assert database_of(Tag.from_db("lite", ["id", "name"], [1, "x"])) == "lite"
    assert database_of(Tag(pk=1)) == "default"


@pytest.mark.parametrize(("text", "expected"), [("a:b/ž", True), ("a b", False), ("a\x7f", False)])
def test_a_text_is_safe_if_nobody_is_warned_of_it(text: str, expected: bool) -> None:
    """No blanks, nothing that cannot be printed."""
    assert is_safe(text) is expected
