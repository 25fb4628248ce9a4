"""Connections of a pool, of pgbouncer, and of a role with few rights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.test import override_settings

from cachebackend.checks import check_notifications
from cachebackend.invalidation import relay, relay_listener
from cachebackend.models import OutboxRow
from cacheproject.services import Services
from tests.integration.write_behind import drain_all, one_partition
from tests.pgbouncer import pgbouncer_binary, pgbouncer_server
from tests.shop.models import Author, Meter
from tests.waits import wait_for_threads

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
    pytest.mark.postgres,
]


@pytest.fixture
def pooled(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The database behind pgbouncer in transaction mode; the address of Postgres itself."""
    binary = pgbouncer_binary()
    if binary is None:
        pytest.skip("no pgbouncer")
    block = connection.settings_dict
    direct = {"HOST": block["HOST"], "PORT": block["PORT"]}
    server = pgbouncer_server(binary, services.folder, int(block["PORT"]), block["PASSWORD"])
    server.start()
    try:
        server.wait_until_ready()
        connection.close()
        monkeypatch.setitem(block, "PORT", server.port)
        yield direct
    finally:
        connection.close()
        server.end()


def test_a_pooler_that_swallows_notifications_is_found(
    pooled: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The system check reports it, and the relay says that it only runs at its interval."""
    [warning] = check_notifications(databases=["default"])
    assert warning.id == "ringcache.W014"
    with caplog.at_level(logging.WARNING, "cachebackend"):
        relay_listener.relay_on_notify("default", lambda _: False, pause=lambda _: None)
    assert "receives no notifications" in caplog.text


def test_a_direct_connection_receives_notifications(
    pooled: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """``RINGCACHE["listen"]`` has its address; everything else goes through the pooler."""
    with override_settings(RINGCACHE={"listen": {"default": pooled}}):
        assert check_notifications(databases=["default"]) == []
        relay_listener.relay_on_notify("default", lambda _: False, pause=lambda _: None)
    assert "receives no notifications" not in caplog.text


def test_nothing_is_reported_without_a_pooler() -> None:
    """Nor is the database asked if its checks are not asked for."""
    assert check_notifications(databases=["default"]) == []
    assert check_notifications(databases=None) == []


def use_everything() -> None:
    """Read and write cached rows, with raw SQL and a trigger too; run the relay; drain writes."""
    author = Author.objects.create(name="Sappho")
    assert Author.cached.get(pk=author.pk).name == "Sappho"
    with transaction.atomic():
        Author.objects.filter(pk=author.pk).update(name="Psappho")
    assert Author.cached.get(pk=author.pk).name == "Psappho"
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {Author._meta.db_table} SET name = 'Sappho' WHERE id = %s", [author.pk])
    relay()
    assert Author.cached.get(pk=author.pk).name == "Sappho"
    changed, deleted = Meter.objects.create(), Meter.objects.create()
    with one_partition():
        Meter.behind.update(changed.pk, count=F("count") + 1, label="x")
        Meter.behind.delete(deleted.pk)
        assert Meter.behind.get(changed.pk).count == 1
        [drained] = drain_all()
    assert (drained.rows, drained.parked) == (2, 0)
    assert list(Meter.objects.values_list("count", "label")) == [(1, "x")]
    assert not OutboxRow.objects.exists()


@pytest.fixture
def own_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The database with Django's pool of psycopg's connections."""
    block = connection.settings_dict
    wait_for_threads("ringcache-default")  # each has a connection that is not of the pool
    connection.close()
    monkeypatch.setitem(block, "CONN_MAX_AGE", 0)
    monkeypatch.setitem(block, "OPTIONS", {**block["OPTIONS"], "pool": {"min_size": 1, "max_size": 2}})
    yield
    wait_for_threads("ringcache-default")
    connection.close()
    connection.close_pool()


@pytest.mark.usefixtures("own_pool")
def test_all_of_it_works_with_a_pool() -> None:
    """Connections come from the pool, and go back to it after each request."""
    assert connection.pool is not None
    use_everything()


@pytest.mark.usefixtures("own_pool")
def test_the_relay_listens_outside_the_pool() -> None:
    """A connection that goes back to the pool would take its ``LISTEN`` along."""
    assert check_notifications(databases=["default"]) == []
    relay_listener.relay_on_notify("default", lambda _: False, pause=lambda _: None)
    channels = []
    for _ in range(2):
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_listening_channels()")
            channels += cursor.fetchall()
        connection.close()
    assert channels == []


@pytest.mark.usefixtures("pooled")
def test_all_of_it_works_behind_a_pooler() -> None:
    """Nothing of ours needs more than the connection of one transaction."""
    use_everything()


@pytest.fixture
def limited_role() -> Iterator[None]:
    """A role that may read and write rows, and creates no tables, not even temporary ones."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        [database] = cursor.fetchone()
        database = connection.ops.quote_name(database)
        cursor.execute(
            f"""
            REVOKE ALL ON DATABASE {database} FROM PUBLIC;
            CREATE ROLE ringcache_limited;
            GRANT USAGE ON SCHEMA public TO ringcache_limited;
            GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ringcache_limited;
            GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO ringcache_limited;
            SET ROLE ringcache_limited
            """
        )
    yield
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            RESET ROLE;
            DROP OWNED BY ringcache_limited;
            DROP ROLE ringcache_limited;
            GRANT CONNECT, TEMPORARY ON DATABASE {database} TO PUBLIC
            """
        )


@pytest.mark.usefixtures("limited_role")
def test_a_role_needs_no_right_to_create_tables() -> None:
    """It reads and writes rows, those of our own tables too; and uses sequences."""
    with pytest.raises(Exception, match="permission denied"), connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE t (id int)")
    use_everything()
