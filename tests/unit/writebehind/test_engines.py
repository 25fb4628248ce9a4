"""Databases that batches can be drained to."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections

from cachebackend import checks
from cachebackend.errors import WriteBehindRefusedError
from cachebackend.writebehind import engines
from cachebackend.writebehind.engines import engine_fault
from tests.shop.models import Meter

FAULT = "shop.Meter: write-behind needs Postgres, and database 'lite' is SQLite; write the rows with save()"


class ToLite:
    """Routes every write to a SQLite database."""

    def db_for_write(self, *_: object, **__: object) -> str:
        return "lite"


def test_only_postgres_can_be_drained_to() -> None:
    """The message names the model, the database and the way out."""
    assert engine_fault(Meter, "lite") == FAULT
    if connections["default"].vendor == "postgresql":
        assert engine_fault(Meter, "default") is None


def test_write_behind_needs_psycopg_3(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not among what the library requires, because the cache works without it."""
    monkeypatch.setattr(connections["default"], "vendor", "postgresql")
    monkeypatch.setattr(engines, "_HAS_PSYCOPG", False)
    assert engine_fault(Meter, "default") == (
        "shop.Meter: write-behind needs psycopg 3, which is not installed: "
        "pip install 'django-ringcache[postgres]'"
    )


def test_a_write_that_would_never_be_drained_is_refused(settings: Any) -> None:
    """Each kind of write raises before anything is sent, and the system check reports the model."""
    settings.DATABASE_ROUTERS = ["tests.unit.writebehind.test_engines.ToLite"]
    fresh = type(Meter.behind.rows)(Meter, ["count"], [])
    for write in (
        lambda: fresh.change(Meter().pk, {"count": 1}),
        lambda: fresh.create({}),
        lambda: fresh.delete(Meter().pk),
    ):
        with pytest.raises(WriteBehindRefusedError, match="write-behind needs Postgres"):
            write()
    found = {(message.id, message.msg) for message in checks.check_write_behind_engines()}
    assert ("ringcache.E014", FAULT) in found


def test_rows_of_several_databases_are_refused(settings: Any) -> None:
    """A drain asks the routers in a process that knows no tenant, and would write to one database."""
    fresh = type(Meter.behind.rows)(Meter, ["count"], [])
    fresh._has_exact_key = True  # so that no database is asked
    fresh.delete(Meter().pk)
    settings.DATABASE_ROUTERS = ["tests.unit.writebehind.test_engines.ToLite"]
    with pytest.raises(WriteBehindRefusedError, match="send its rows to 'default' and to 'lite'"):
        fresh.delete(Meter().pk)
