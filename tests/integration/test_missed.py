"""Deletes that a node missed: every process sees them, and none of them alone has to remember them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import caches
from django.core.checks import run_checks
from django.core.signals import setting_changed
from django.db import connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Now
from django.test import override_settings

from cachebackend import RingCache, invalidation
from cachebackend.errors import NodeUnavailableError
from cachebackend.invalidation import outbox_writer
from cachebackend.invalidation.outbox import ClientOutbox, new_row, write_row
from cachebackend.models import OutboxRow
from cachebackend.node.breaker import EJECTED, UP
from cachebackend.protocol import missed_deletes
from cachebackend.protocol.missed_deletes import ALL_KEYS
from cacheproject.demo.models import Article
from cacheproject.services import Services
from tests.integration.held_node import (
    NODE,
    Probes,
    cache,
    come_back,
    dead,
    eject,
    node_of,
    owner,
    probes,
    state,
)
from tests.threadless import threadless
from tests.waits import wait_for_threads

pytestmark = [
    pytest.mark.ring_of_nodes,
    pytest.mark.hangs,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


def another_process() -> RingCache:
    """Return the cache object of a new process."""
    setting_changed.send(sender=None, setting="CACHES", value=None, enter=True)
    cache = caches.create_connection("default")
    assert isinstance(cache, RingCache)
    return cache


def relay() -> invalidation.RelayResult:
    OutboxRow.objects.update(created=Now() - timedelta(seconds=5))
    return invalidation.relay()


def eject_at_once(cache: RingCache) -> None:
    """Eject the node in this process, with no probe soon."""
    breaker = node_of(cache).breaker
    assert breaker is not None
    breaker.failed(NodeUnavailableError("cut off by a test"), at_once=True)


def limit(cache: RingCache, keys: int) -> None:
    cache.client.context.missed.limit = keys


def delete_each(cache: RingCache, keys: Sequence[str]) -> None:
    """Delete some keys, one more than are remembered for a node."""
    limit(cache, len(keys) - 1)
    for key in keys:
        cache.delete(key)


WAYS: dict[str, Callable[[RingCache, list[str]], object]] = {
    "clear": lambda cache, _: cache.clear(),
    "clear_all": lambda cache, _: cache.clear_all(),
    "delete_pattern": lambda cache, _: cache.delete_pattern("k*"),
    "many deletes": delete_each,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("by", ["the relay", "a probe"])
def test_a_missed_clear_is_replayed_after_its_process_ended(
    cache: RingCache, dead: list[str], services: Services, probes: Probes, *, way: str, by: str
) -> None:
    """The outbox has a row for all keys of the node."""
    eject(cache, dead[0])
    WAYS[way](cache, dead)
    other = another_process()
    if by == "a probe":
        eject_at_once(other)
        come_back(other, services, probes)
    else:
        services.resume(NODE)
        relay()
        assert OutboxRow.objects.count() == 0
    assert state(other) == UP
    assert other.get_many(dead) == {}


def test_clearing_a_node_of_one_alias_keeps_the_keys_of_others(
    cache: RingCache, dead: list[str], services: Services
) -> None:
    """A clear deletes the keys of its alias only."""
    new_row({"default": []}, node=node_of(cache).endpoint).save()
    services.resume(NODE)
    node = node_of(cache)
    node.call((b"SET", b"another's", b"1"))
    relay()
    assert cache.get_many(dead) == {}
    assert node.call((b"GET", b"another's")) == b"1"


def test_a_node_that_stays_down_has_one_row_for_all_its_keys(
    cache: RingCache, dead: list[str], probes: Probes
) -> None:
    """Although several processes wrote such a row."""
    for _ in range(3):
        new_row({"default": []}, node=node_of(cache).endpoint).save()
    relayed = relay()
    assert (relayed.rows, relayed.pending) == (2, 1)
    assert OutboxRow.objects.get().node == node_of(cache).endpoint


def test_the_relay_replaces_too_many_keys_by_a_clear_of_the_node(
    cache: RingCache, dead: list[str], services: Services, probes: Probes
) -> None:
    """So the outbox does not grow while the node is down; rows for keys of other nodes remain."""
    limit(cache, 2)
    for key in dead[:4]:
        write_row("default", {"default": {cache.key_bytes(key)}})
    relay()
    assert [row.node for row in OutboxRow.objects.all()] == [node_of(cache).endpoint]
    services.resume(NODE)
    other = another_process()
    relay()
    assert other.get_many(dead) == {}
    assert OutboxRow.objects.count() == 0


def test_all_tags_are_deleted_after_a_node_was_cleared(
    cache: RingCache, dead: list[str], services: Services
) -> None:
    """A page may have been made from an old value of the node before it was cleared; values stay."""
    services.resume(NODE)
    for name in ("k", "m", "n"):
        cache.get_or_set(f"page-{name}", lambda: "old", tags=[name])
    kept = next(f"k{n}" for n in range(30) if owner(cache, f"k{n}").name != NODE)
    new_row({"default": []}, node=node_of(cache).endpoint).save()
    assert relay().rows == 1
    assert cache.get_many(["page-k", "page-m", "page-n"]) == {}
    assert cache.get(kept) is not None
    assert OutboxRow.objects.count() == 0


def test_pending_deletes_of_a_removed_node_are_dropped(cache: RingCache) -> None:
    """Nothing is read from it any more."""
    new_row({"default": []}, node="gone").save()
    assert relay().rows == 1


def test_a_missed_delete_is_stored_again_after_the_relay_deleted_its_row(
    cache: RingCache, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is unreachable for this process only, and another process has filled the key meanwhile."""
    monkeypatch.setattr(missed_deletes, "SETTLING_SECONDS", 0.0)
    key = next(f"k{n}" for n in range(30) if owner(cache, f"k{n}").name == NODE)
    eject_at_once(cache)
    cache.delete(key)
    OutboxRow.objects.all().delete()  # as the relay of another process would
    cache.delete(key)
    assert OutboxRow.objects.count() == 1
    other = another_process()
    other.set(key, "meanwhile")
    relay()
    assert other.get(key) is None


def test_deletes_missed_during_a_replay_are_replayed_before_the_node_serves(
    cache: RingCache, probes: Probes, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The breaker closes in one step with the check that no delete remains."""
    key = next(f"k{n}" for n in range(30) if owner(cache, f"k{n}").name == NODE)
    eject_at_once(cache)
    replay = node_of(cache).replay
    assert replay is not None
    replay_all = replay.replay_all

    def delete_after(exchange: Any) -> None:
        replay_all(exchange)
        cache.delete(key)

    monkeypatch.setattr(replay, "replay_all", delete_after)
    come_back(cache, services, probes)
    assert state(cache) == UP
    assert cache.client.context.missed.count(cache.client.nodes.index(node_of(cache))) == 0
    assert cache.get(key) is None


def test_more_missed_keys_than_the_limit_clear_the_node(
    cache: RingCache, dead: list[str], services: Services, probes: Probes
) -> None:
    """Whichever process wrote them; no further rows are read."""
    limit(cache, 1)
    outbox = ClientOutbox(cache.client)
    for key in dead[:2]:
        write_row("default", {"default": {cache.key_bytes(key)}})
    assert outbox.missed_by(node_of(cache).endpoint, 1) == ALL_KEYS
    assert len(outbox.missed_by(node_of(cache).endpoint, 2).keys) == 2
    assert not outbox.missed_by("ring-b", 0)
    eject(cache, dead[0])
    come_back(cache, services, probes)
    assert cache.get_many(dead) == {}


def test_the_error_names_an_outbox_that_cannot_be_read(
    cache: RingCache, services: Services, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is not blamed for it."""
    monkeypatch.setattr(ClientOutbox, "missed_by", lambda *_: 1 / 0)
    eject_at_once(cache)
    come_back(cache, services, probes)
    breaker = node_of(cache).breaker
    assert breaker is not None
    assert breaker.state.state == EJECTED
    assert "answers, but its missed deletes cannot be replayed: ZeroDivisionError" in breaker.state.error


def test_aliases_that_share_a_client_are_all_replayed(
    services: Services, probes: Probes, settings: Any
) -> None:
    """The client does not know their prefixes."""
    block = settings.CACHES["default"]
    with override_settings(CACHES=settings.CACHES | {"second": block | {"KEY_PREFIX": "second"}}):
        first, second = caches.create_connection("default"), caches.create_connection("second")
        assert isinstance(first, RingCache)
        assert isinstance(second, RingCache)
        assert first.client is second.client
        key = next(f"k{n}" for n in range(30) if owner(second, f"k{n}").name == NODE)
        second.set(key, "old")
        eject_at_once(second)
        write_row("default", {"second": {second.key_bytes(key)}})
        come_back(second, services, probes)
        assert state(second) == UP
        assert second.get(key) is None


# How missed deletes get into the outbox


def test_callers_that_wait_together_share_one_insert(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each caller continues only when its own row is committed."""
    insert, began, may_insert = outbox_writer._insert, threading.Event(), threading.Event()
    inserted: list[int] = []

    def held(rows: list[OutboxRow]) -> None:
        began.set()
        assert may_insert.wait(10)
        inserted.append(len(rows))
        insert(rows)

    monkeypatch.setattr(outbox_writer, "_insert", held)
    writer = outbox_writer.OutboxWriter()
    first = writer.write(new_row({"default": [b"0"]}), 10)
    assert began.wait(10)
    others = [writer.write(new_row({"default": [str(n).encode()]}), 10) for n in range(1, 6)]
    assert not any(each.is_set for each in (first, *others))
    may_insert.set()
    for each in (first, *others):
        each.result(10)
    assert inserted == [1, 5]
    assert OutboxRow.objects.count() == 6


def test_callers_do_not_wait_for_a_database_that_hangs(
    probes: Probes, settings: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once an insert takes longer than ``outbox_timeout``, deletes are in memory only; the log says so."""
    writer, may_insert = outbox_writer.OutboxWriter(), threading.Event()
    block = settings.CACHES["default"]
    options = block["OPTIONS"] | {"outbox_timeout": 0.001}
    settings.CACHES = settings.CACHES | {"default": block | {"OPTIONS": options}}
    cache = another_process()
    monkeypatch.setattr(outbox_writer, "_writer", writer)
    began = threading.Event()

    def hang(_: list[OutboxRow]) -> None:
        began.set()
        may_insert.wait(10)

    monkeypatch.setattr(outbox_writer, "_insert", hang)
    waiting = writer.write(new_row({"default": [b"k"]}), 10)
    assert began.wait(10)
    eject_at_once(cache)
    cache.delete_many([f"k{n}" for n in range(30)])
    assert "kept in memory only" in caplog.text
    assert OutboxRow.objects.count() == 0
    may_insert.set()
    waiting.result(10)


@pytest.fixture
def pool_of_one() -> Iterator[BaseDatabaseWrapper]:
    """The connection of the default database, from a pool that has no second one."""
    own = connections["default"]
    pool = {"min_size": 1, "max_size": 1, "timeout": 1.0}
    options = own.settings_dict["OPTIONS"] | {"pool": pool}
    settings = own.settings_dict | {"OPTIONS": options, "CONN_MAX_AGE": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(connections.settings, "default", settings)
        connections["default"] = connection = connections.create_connection("default")
        try:
            yield connection
        finally:
            connection.close()
            connection.close_pool()  # type: ignore[attr-defined]  # of Postgres
            connections["default"] = own


@pytest.mark.postgres
def test_a_missed_delete_is_stored_although_the_pool_has_no_connection_left(
    cache: RingCache, probes: Probes, pool_of_one: BaseDatabaseWrapper, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller's transaction holds the only one; the writer's connection is not from the pool."""
    eject_at_once(cache)
    with transaction.atomic():
        assert not OutboxRow.objects.exists()
        cache.delete_many([f"k{n}" for n in range(30)])
        with pool_of_one.cursor() as cursor:  # at READ COMMITTED it sees what the writer has committed
            cursor.execute(f"SELECT count(*) FROM {OutboxRow._meta.db_table}")
            assert cursor.fetchone() == (1,)
        transaction.set_rollback(True)
    assert "kept in memory only" not in caplog.text


def test_a_forked_child_has_a_writer_of_its_own(cache: RingCache, probes: Probes) -> None:
    """The writer thread of the parent does not exist in it."""
    outbox = ClientOutbox(cache.client)
    assert outbox.keep(node_of(cache).endpoint, ALL_KEYS)
    connections.close_all()
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if outbox.keep(node_of(cache).endpoint, ALL_KEYS) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert OutboxRow.objects.count() == 2


def test_without_an_outbox_a_warning_says_that_deletes_are_in_memory_only(
    cache: RingCache, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once; here the app is not installed."""
    cache.client.outbox = None
    eject_at_once(cache)
    for n in range(30):
        cache.delete(f"k{n}")
    [said] = [record for record in caplog.records if "only in the memory of each process" in record.message]
    assert "add 'cachebackend' to INSTALLED_APPS" in said.message


class Nowhere:
    """A router that allows the outbox in no database."""

    def allow_migrate(self, db: str, app_label: str, **_: Any) -> bool | None:
        return False if app_label == "cachebackend" else None


class OwnDatabase:
    """Sends the articles to a database of their own, and the outbox to the default one only."""

    def db_for_write(self, model: type[models.Model], **_: Any) -> str | None:
        return "lite" if model is Article else None

    def allow_migrate(self, db: str, app_label: str, **_: Any) -> bool | None:
        return db == "default" if app_label == "cachebackend" else None


def test_a_model_whose_own_database_has_no_outbox_is_reported() -> None:
    """The outbox row of a write is in its transaction, so each database that is written needs the table."""
    assert not [each for each in run_checks() if each.id == "ringcache.W011"]
    with override_settings(DATABASE_ROUTERS=["tests.integration.test_missed.OwnDatabase"]):
        found = [each for each in run_checks() if each.id in {"ringcache.W003", "ringcache.W011"}]
    assert {(each.id, each.obj) for each in found} == {("ringcache.W011", Article)}
    assert "'lite', which has no outbox" in found[0].msg


def test_an_outbox_without_a_table_is_a_warning(
    cache: RingCache, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    """The system check warns, and so does the log when a delete is missed."""
    assert not [each for each in run_checks() if each.id == "ringcache.W003"]
    with override_settings(DATABASE_ROUTERS=["tests.integration.test_missed.Nowhere"]):
        [found] = [each for each in run_checks() if each.id == "ringcache.W003"]
        assert "has no outbox" in found.msg
        assert not ClientOutbox(cache.client).keep(node_of(cache).endpoint, ALL_KEYS)
    assert "ringcache.W003" in caplog.text


def test_a_process_without_threads_remembers_missed_deletes(cache: RingCache, dead: list[str]) -> None:
    """Also in asyncio: they stay in its memory, because the outbox is written in another thread."""

    async def delete() -> None:
        with threadless():
            await cache.adelete_many(dead)

    wait_for_threads("ringcache-outbox")
    eject_at_once(cache)
    asyncio.run(delete())
    node = cache.client.nodes.index(node_of(cache))
    assert cache.client.context.missed.count(node) == len(dead)
    assert OutboxRow.objects.count() == 0
