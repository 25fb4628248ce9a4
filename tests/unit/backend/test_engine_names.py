"""The names of database engines in messages."""

from __future__ import annotations

from typing import NoReturn

import pytest
from django.db import OperationalError, connections, router

from cachebackend import checks
from cachebackend.backend.engine_names import engine_name
from cachebackend.monitoring.outbox import _database_fault
from cachebackend.writebehind.engines import engine_fault
from tests.shop.models import Author, Meter


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> str:
    """The alias of a MySQL or MariaDB that does not answer; Django asks it which of the two it is."""

    def ask(_: object) -> NoReturn:
        raise OperationalError

    connection = connections["lite"]
    monkeypatch.setattr(connection, "vendor", "mysql")
    monkeypatch.setattr(type(connection), "display_name", property(ask))
    return "lite"


def test_an_engine_has_the_name_that_django_gives_it() -> None:
    """Only the name of MySQL or MariaDB needs a connection."""
    assert engine_name("lite") == "SQLite"


def test_the_checks_of_models_run_without_the_database(away: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Celery worker runs them when it starts, and must start although MariaDB is down."""
    monkeypatch.setattr(router, "db_for_write", lambda *_, **__: away)
    found = {
        (message.id, message.obj): message.msg
        for message in (*checks.check_trigger_databases(), *checks.check_write_behind_engines())
    }
    assert found["ringcache.E004", Author].endswith("its database 'lite' is MySQL or MariaDB, not Postgres.")
    assert "database 'lite' is MySQL or MariaDB" in found["ringcache.E014", Meter]
    assert engine_fault(Meter, away) == found["ringcache.E014", Meter]


def test_a_database_that_is_down_is_a_fault(away: str) -> None:
    """The status page shows the fault, not an error of its own."""
    fault = _database_fault(away, OperationalError("Can't connect"))
    assert fault.message.startswith("MySQL or MariaDB")
    assert fault.message.endswith(" does not answer (database 'lite'): Can't connect")
