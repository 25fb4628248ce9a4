"""Triggers on a table of Postgres that Django does not manage and that is divided into partitions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.core.management import call_command
from django.db import connection

from cachebackend import invalidate, invalidation
from cachebackend.models import OutboxRow
from tests.zoo.models import Moment

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
#: pgtrigger's names of the triggers.
TRIGGERS = [f"zoo.Moment:ringcache_{each}" for each in ("insert", "update", "delete", "truncate")]


def run(*statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@pytest.fixture
def partitioned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The table of a cached model has two partitions, is not managed, and ``pgtrigger install`` ran."""
    monkeypatch.setattr(Moment._meta, "managed", False)
    run(
        "ALTER TABLE zoo_moment RENAME TO zoo_moment_whole",
        "CREATE TABLE zoo_moment (LIKE zoo_moment_whole) PARTITION BY RANGE (id)",
        "CREATE TABLE zoo_moment_low PARTITION OF zoo_moment FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE zoo_moment_high PARTITION OF zoo_moment FOR VALUES FROM (100) TO (200)",
    )
    try:
        call_command("pgtrigger", "install", *TRIGGERS, verbosity=0)
        run("INSERT INTO zoo_moment (id, name, rank) VALUES (1, 'first', 0)")
        invalidation.relay()
        yield
    finally:
        run("DROP TABLE zoo_moment", "ALTER TABLE zoo_moment_whole RENAME TO zoo_moment")


def test_a_write_to_the_whole_table_is_seen(partitioned: None) -> None:
    """Also one that moves a row to another partition, and TRUNCATE."""
    assert Moment.cached.get(pk=1).rank == 0
    run("UPDATE zoo_moment SET rank = 1")
    invalidation.relay()
    assert Moment.cached.get(pk=1).rank == 1
    run("UPDATE zoo_moment SET id = 150")
    invalidation.relay()
    assert Moment.cached.get(pk=150).rank == 1
    with pytest.raises(Moment.DoesNotExist):
        Moment.cached.get(pk=1)
    run("TRUNCATE zoo_moment")
    invalidation.relay()
    with pytest.raises(Moment.DoesNotExist):
        Moment.cached.get(pk=150)


def test_a_write_to_a_partition_by_its_name_is_not_seen(partitioned: None) -> None:
    """Postgres runs the triggers of the table that the statement names. ``invalidate`` helps."""
    assert Moment.cached.get(pk=1).rank == 0
    run("UPDATE zoo_moment_low SET rank = 1")
    assert not OutboxRow.objects.exists()
    assert Moment.cached.get(pk=1).rank == 0
    invalidate(Moment.objects.get(pk=1))
    assert Moment.cached.get(pk=1).rank == 1
