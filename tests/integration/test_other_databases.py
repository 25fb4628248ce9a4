"""A database that is down, hangs, lacks the outbox or is a replica: it stops neither relay nor node."""

from __future__ import annotations

import inspect
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Now

from cachebackend import RingCache, checks, invalidation
from cachebackend.checks.migrated import is_empty, lacks_outbox, missing_migrations
from cachebackend.errors import NodeUnavailableError
from cachebackend.invalidation import outbox, outbox_databases, outbox_table
from cachebackend.invalidation.outbox import ClientOutbox, write_row
from cachebackend.invalidation.outbox_databases import ask_databases
from cachebackend.invalidation.own_thread import Outcome
from cachebackend.management.commands import invalidation as command
from cachebackend.models import OutboxRow
from cachebackend.monitoring import key_figures, outbox_figures
from cachebackend.monitoring import outbox as figures_of_outbox
from cachebackend.node.breaker import EJECTED, UP
from cacheproject.services import Services
from tests.asking_threads import close_connections
from tests.integration.held_node import Probes, cache, come_back, node_of, probes, state
from tests.interrupting import handler, interrupted_everywhere
from tests.waits import wait_until

__all__ = ["handler"]

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


@pytest.fixture
def add_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Add a database alias that differs from the default one in some settings."""
    added: list[str] = []

    def add(alias: str, **changed: Any) -> None:
        settings = connections["default"].settings_dict
        changed["OPTIONS"] = changed.pop("OPTIONS", {}) | ({} if "ENGINE" in changed else settings["OPTIONS"])
        monkeypatch.setitem(connections.settings, alias, settings | changed)
        test_case = inspect.getclosurevars(BaseDatabaseWrapper.ensure_connection).nonlocals["cls"]
        monkeypatch.setattr(test_case, "databases", test_case.databases | {alias})
        added.append(alias)

    yield add
    for alias in added:
        close_connections(alias)
        BaseDatabaseWrapper.close(connections[alias])  # Django's own close() keeps SQLite in memory open
        del connections[alias]


@pytest.fixture(params=["refuses", "hangs"])
def away(
    request: pytest.FixtureRequest, add_database: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The alias of a database that refuses connections, or accepts them and does not answer."""
    monkeypatch.setattr(outbox, "READ_TIMEOUT", 0.5)
    monkeypatch.setattr(outbox_databases, "_askers", {})
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if request.param == "refuses":
            server.close()
        add_database("away", HOST="127.0.0.1", PORT=port)
        yield "away"


def eject(cache: RingCache) -> None:
    breaker = node_of(cache).breaker
    assert breaker is not None
    breaker.failed(NodeUnavailableError("cut off by a test"), at_once=True)


@pytest.mark.ring_of_nodes
def test_a_node_returns_although_a_database_cannot_be_asked(
    cache: RingCache, services: Services, probes: Probes, away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first it waits, and the error names the database. Then its keys are cleared: it missed nothing."""
    eject(cache)
    come_back(cache, services, probes)
    breaker = node_of(cache).breaker
    assert breaker is not None
    assert state(cache) == EJECTED
    assert "the outbox cannot be read in database 'away': " in breaker.state.error.replace("\\", "")
    monkeypatch.setattr(outbox, "UNREAD_SECONDS", 0.0)
    come_back(cache, services, probes)
    assert state(cache) == UP
    owners = [cache.client.ring.owner(cache.key_bytes(f"k{n}")) for n in range(30)]
    node = cache.client.nodes.index(node_of(cache))
    assert cache.get_many([f"k{n}" for n in range(30)]).keys() == {
        f"k{n}" for n, owner in enumerate(owners) if owner != node
    }


@pytest.mark.ring_of_nodes
def test_a_node_whose_keys_cannot_be_cleared_waits_for_the_database(
    cache: RingCache, services: Services, probes: Probes, away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a ``KEY_FUNCTION`` that hides the keys, nobody knows what it may hold."""
    monkeypatch.setattr(outbox, "UNREAD_SECONDS", 0.0)
    cache.client.context.missed.limit = float("inf")
    eject(cache)
    come_back(cache, services, probes)
    assert state(cache) == EJECTED


def test_the_relay_processes_the_other_databases(
    ring_cache: RingCache, away: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It returns in time, and logs the database without a traceback, once a minute."""
    ring_cache.set("k", "old")
    write_row("default", {"default": {ring_cache.key_bytes("k")}})
    OutboxRow.objects.update(created=Now() - timedelta(seconds=5))
    for rows in (1, 0):
        result = invalidation.relay(0.5)
        assert (result.rows, list(result.failed)) == (rows, ["away"])
    assert ring_cache.get("k") is None
    logged = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert len(logged) <= 1
    assert not any(each.exc_info for each in logged)


def test_the_database_is_shown(ring_cache: RingCache, away: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the page, in the inspector and in the commands; what the others hold is shown besides."""
    monkeypatch.setattr(figures_of_outbox, "READ_TIMEOUT", 0.5)
    monkeypatch.setattr(command, "RELAY_TIMEOUT", 0.5)
    key = ring_cache.key_bytes("k")
    write_row("default", {"default": {key}})
    [fault] = outbox_figures().faults
    assert "does not answer (database 'away'): " in fault.message
    assert fault.since is not None
    lines = key_figures("default", "k", None, shows_value=False).pending
    assert [line[:14] for line in lines] == ["pending delete", "the outbox of "]
    with pytest.raises(SystemExit):
        call_command("invalidation", "relay")


def test_few_threads_wait_for_a_database_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further requests fail at once, until a thread has ended."""
    may_answer = threading.Event()
    monkeypatch.setattr(outbox_databases, "_askers", {})
    monkeypatch.setattr(outbox_databases, "LATE_SECONDS", 0.0)
    monkeypatch.setattr(outbox_databases, "outbox_databases", lambda: ["default"])
    for _ in range(outbox_databases.MAX_LATE):
        asked = ask_databases(lambda _: may_answer.wait(10), 0)
        assert str(asked.errors["default"]) == "no answer within 0 s"
    late = outbox_databases._askers["default"]
    assert len(late) == outbox_databases.MAX_LATE
    assert str(ask_databases(lambda _: True, 10).errors["default"]) == "no answer within 10 s"
    answers = [each.answer for each in late]
    may_answer.set()
    for answer in answers:
        assert answer is not None
        assert answer.result(10)
    assert ask_databases(lambda _: True, 10).found == {"default": True}


@pytest.mark.own_connections
def test_requests_that_follow_each_other_use_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a relay that runs every second starts no thread and opens no connection each time."""
    monkeypatch.setattr(outbox_databases, "_askers", {})

    def session(using: str) -> tuple[int, int]:
        connections[using].ensure_connection()
        return threading.get_ident(), connections[using].connection.info.backend_pid

    first = ask_databases(session, 10).found["default"]
    assert ask_databases(session, 10).found["default"] == first
    assert first != session("default")


def test_a_connection_that_the_server_has_closed_is_replaced() -> None:
    """The thread that keeps it looks before each request."""

    def close(using: str) -> None:
        connections[using].ensure_connection()
        connections[using].connection.close()

    ask_databases(close, 10)
    assert ask_databases(lambda using: OutboxRow.objects.using(using).count(), 10).found["default"] == 0


def test_a_database_in_memory_is_asked_by_the_calling_thread(add_database: Callable[..., None]) -> None:
    """Each thread has another one."""
    add_database("memory", ENGINE="django.db.backends.sqlite3", NAME=":memory:", OPTIONS={})
    with connections["memory"].schema_editor() as editor:
        editor.create_model(OutboxRow)
    write_row("memory", {"default": {b"key"}})
    asked = ask_databases(lambda using: OutboxRow.objects.using(using).count(), 10)
    assert (asked.found["memory"], asked.errors) == (1, {})


@pytest.mark.usefixtures("handler")
def test_an_interrupted_request_leaves_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that asks answers the next request."""
    monkeypatch.setattr(outbox_databases, "outbox_databases", lambda: ["default"])

    def ask() -> bool:
        return ask_databases(lambda using: using, 10).found == {"default": "default"}

    def check() -> None:
        """Threads that still answer interrupted requests may be too many for a new one, for a moment."""
        wait_until(ask)

    assert interrupted_everywhere(ask, check, 1) == []
    assert not outbox_databases._lock.locked()


def test_a_database_is_asked_inside_the_open_transaction_of_the_caller(ring_cache: RingCache) -> None:
    """So a test case, which never commits, relays what it wrote."""
    ring_cache.set("k", "old")
    with transaction.atomic():
        write_row("default", {"default": {ring_cache.key_bytes("k")}})
        OutboxRow.objects.update(created=Now() - timedelta(seconds=5))
        assert outbox_figures().rows == 1
        assert invalidation.relay().rows == 1
    assert ring_cache.get("k") is None


@pytest.mark.own_connections
def test_an_alias_that_may_only_read_is_not_relayed_and_not_counted_twice(
    ring_cache: RingCache, add_database: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """Its rows are those of another alias. The probe of a node reads it all the same."""
    add_database("reader", OPTIONS={"options": "-c default_transaction_read_only=on"})
    add_database("pooled")
    key = ring_cache.key_bytes("k")
    write_row("default", {"default": {key}})
    assert outbox_figures().rows == 1
    client = ring_cache.client
    endpoint = client.nodes[client.ring.owner(key)].endpoint
    assert ClientOutbox(client).missed_by(endpoint, 10).keys == (key,)
    OutboxRow.objects.update(created=Now() - timedelta(seconds=5))
    result = invalidation.relay()
    assert (result.pending, result.failed) == (0, {})
    assert not OutboxRow.objects.exists()
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


def test_a_replica_is_neither_relayed_nor_counted(
    ring_cache: RingCache, add_database: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether Postgres says that it is one, or the settings do by ``TEST["MIRROR"]``."""
    write_row("default", {"default": {ring_cache.key_bytes("k")}})
    add_database("mirror", TEST=connections["default"].settings_dict["TEST"] | {"MIRROR": "default"})
    assert "mirror" not in list(outbox_databases.outbox_databases())
    monkeypatch.setattr(outbox_databases, "_POSTGRES", "SELECT true, true, %s")
    assert outbox_figures().rows == 0
    assert key_figures("default", "k", None, shows_value=False).pending == []
    assert invalidation.relay() == invalidation.RelayResult()


def test_a_check_names_a_database_that_lacks_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The routers let it have an outbox; a database that is not named is not asked."""
    named = {"databases": ["default", "lite"]}
    assert checks.check_outbox_tables(**named) == []
    monkeypatch.setattr(outbox_table, "_with_table", set())
    monkeypatch.setattr(OutboxRow._meta, "db_table", "ringcache_missing")
    assert checks.check_outbox_tables() == []
    messages = checks.check_outbox_tables(**named)
    assert [message.id for message in messages] == ["ringcache.W015"] * 2
    assert "Database 'lite' has no table ringcache_missing" in messages[1].msg


def test_no_check_asks_to_migrate_a_database_without_any_table(
    add_database: Callable[..., None], tmp_path: Path
) -> None:
    """Its first ``migrate`` may be running, which runs the checks before; one with other tables is named."""
    engine = connections["lite"].settings_dict["ENGINE"]
    add_database("fresh", ENGINE=engine, NAME=str(tmp_path / "fresh"), OPTIONS={})
    assert not outbox_table.has_outbox("fresh")
    assert not lacks_outbox("fresh")
    assert missing_migrations("fresh") == []
    assert is_empty("fresh")
    with connections["fresh"].cursor() as cursor:
        cursor.execute("CREATE TABLE customers (id int)")
    assert lacks_outbox("fresh")
    assert missing_migrations("fresh")[0] == "0001_initial"
    assert not lacks_outbox("default")
    assert missing_migrations("default") == []


@pytest.mark.ring_of_nodes
def test_a_database_without_the_table_keeps_no_node_out(
    cache: RingCache, services: Services, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second database is often not migrated."""
    monkeypatch.setattr(outbox_table, "_with_table", set())
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE cachebackend_outboxrow RENAME TO moved_away")
    try:
        eject(cache)
        come_back(cache, services, probes)
        assert state(cache) == UP
        assert invalidation.relay().failed == {}
        assert cache.get("k1") == 1
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE moved_away RENAME TO cachebackend_outboxrow")
