"""A database that is not Postgres: that of the run, or else SQLite."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections, router

from cachebackend import checks, writebehind
from cachebackend.backend.engine_names import engine_name
from cachebackend.checks.migrated import missing_migrations
from cachebackend.errors import WriteBehindRefusedError
from cachebackend.models import ParkedWrite
from tests.shop.models import Author, Meter

pytestmark = [
    pytest.mark.django_db(databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


@pytest.fixture
def using(monkeypatch: pytest.MonkeyPatch) -> str:
    """The alias of the database, to which all rows are written."""
    alias = "lite" if connections["default"].vendor == "postgresql" else "default"

    class Router:
        def db_for_write(self, *_: object, **__: object) -> str:
            return alias

    monkeypatch.setattr(router, "routers", [Router()])
    return alias


def test_its_migrations_have_run(using: str) -> None:
    """All of them, with the index of texts that MySQL and MariaDB refuse without a length."""
    assert missing_migrations(using) == []
    connection = connections[using]
    with connection.cursor() as cursor:
        found = connection.introspection.get_constraints(cursor, ParkedWrite._meta.db_table)
    assert found["ringcache_parked_row"]["columns"] == ["label", "key"]


def test_the_checks_refuse_write_behind_and_triggers(using: str) -> None:
    """They name the model, the database and its engine."""
    found: dict[tuple[str | None, Any], str] = {
        (message.id, message.obj): message.msg
        for check in (checks.check_write_behind_engines, checks.check_trigger_databases)
        for message in check(databases=[using])
    }
    for fault in (("ringcache.E014", Meter), ("ringcache.E004", Author)):
        assert repr(using) in found[fault]
        assert engine_name(using) in found[fault]


def test_a_write_that_would_never_be_drained_is_refused(using: str) -> None:
    """Before anything is sent, also if the check is silenced."""
    rows = type(Meter.behind.rows)(Meter, ["count"], [])
    with pytest.raises(WriteBehindRefusedError, match=engine_name(using)):
        rows.change(Meter().pk, {"count": 1})
    assert writebehind.dirty_partitions() == []
