"""How the tables are emptied after a test that commits.

Django truncates every table and then emits ``post_migrate``, which looks up every content type and
permission again. Here the rows are deleted, and the tables that migrations alone fill are left as
they are, so the next test finds the same rows as after Django's own flush.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.core.management.color import no_style
from django.db import connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

#: Filled by the migrations, and written by no test.
_FILLED_BY_MIGRATIONS = frozenset({"auth_permission", "django_content_type", "django_migrations"})
#: By database: the tables that tests write.
_TABLES: dict[str, list[str]] = {}


@pytest.fixture(scope="session", autouse=True)
def quick_flush() -> Iterator[None]:
    """Call ``empty_tables`` instead of the command ``flush`` in Django's test case."""
    from django.test import testcases

    def flush_or_call(name: str, *words: str, **options: Any) -> Any:
        if name != "flush":
            return call_command(name, *words, **options)
        return empty_tables(connections[options["database"]])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testcases, "call_command", flush_or_call)
        yield


def empty_tables(connection: BaseDatabaseWrapper) -> None:
    """Delete the rows of the tables that tests write, without triggers and checks of foreign keys."""
    tables = _TABLES.get(connection.alias)
    if tables is None:
        names = connection.introspection.django_table_names(only_existing=True, include_views=False)
        tables = _TABLES[connection.alias] = sorted(set(names) - _FILLED_BY_MIGRATIONS)
    if connection.vendor == "postgresql":
        deletes = "; ".join(f"DELETE FROM {connection.ops.quote_name(table)}" for table in tables)
        with connection.cursor() as cursor:
            cursor.execute(
                f"SET session_replication_role = replica; {deletes}; RESET session_replication_role"
            )
    else:
        # Not by Django's own method, after which this package writes outbox rows
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            for statement in connection.ops.sql_flush(no_style(), tables):
                cursor.execute(statement)


@pytest.fixture
def program() -> Iterator[psycopg.Connection[Any]]:
    """The database connection of a program that does not use Django."""
    settings = connection.settings_dict
    with psycopg.connect(
        host=settings["HOST"],
        port=settings["PORT"],
        user=settings["USER"],
        password=settings["PASSWORD"],
        dbname=settings["NAME"],
        autocommit=True,
    ) as own:
        yield own
