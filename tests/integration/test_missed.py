"""What a node missed is owed to it by all processes, and by none of them alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import caches
from django.core.checks import run_checks
from django.core.signals import setting_changed
from django.db import connections
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
from cacheproject.services import Services
from tests.integration.test_failures import (
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

pytestmark = [
    pytest.mark.hangs,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


def another_process() -> RingCache:
    """Return the cache as a process has it that was not there before."""
    setting_changed.send(sender=None, setting="CACHES", value=None, enter=True)
    cache = caches.create_connection("default")
    assert isinstance(cache, RingCache)
    return cache


def relay() -> invalidation.RelayResult:
    OutboxRow.objects.update(created=Now() - timedelta(seconds=5))
    return invalidation.relay()


def eject_at_once(cache: RingCache) -> None:
    """Have this process think that the node is down, and not ask it soon."""
    breaker = node_of(cache).breaker
    assert breaker is not None
    breaker.failed(NodeUnavailableError("cut off by a test"), at_once=True)


def limit(cache: RingCache, keys: int) -> None:
    cache.client.context.missed.limit = keys


def delete_each(cache: RingCache, keys: Sequence[str]) -> None:
    """Delete some keys, one more than the node is let miss."""
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
def test_a_node_is_cleared_though_who_asked_for_it_is_gone(
    cache: RingCache, dead: list[str], services: Services, probes: Probes, *, way: str, by: str
) -> None:
    """That it is owed everything stands in the outbox."""
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


def test_who_is_cleared_of_one_alias_keeps_the_keys_of_others(
    cache: RingCache, dead: list[str], services: Services
) -> None:
    """What is not this alias' is not this alias' to delete."""
    new_row({"default": []}, node=node_of(cache).endpoint).save()
    services.resume(NODE)
    node = node_of(cache)
    node.call((b"SET", b"another's", b"1"))
    relay()
    assert cache.get_many(dead) == {}
    assert node.call((b"GET", b"another's")) == b"1"


def test_a_node_that_stays_away_is_owed_one_row_for_everything(
    cache: RingCache, dead: list[str], probes: Probes
) -> None:
    """However many processes, and however often, say so."""
    for _ in range(3):
        new_row({"default": []}, node=node_of(cache).endpoint).save()
    relayed = relay()
    assert (relayed.rows, relayed.pending) == (2, 1)
    assert OutboxRow.objects.get().node == node_of(cache).endpoint


def test_the_relay_has_a_node_cleared_that_is_owed_too_many_keys(
    cache: RingCache, dead: list[str], services: Services, probes: Probes
) -> None:
    """So that the outbox does not grow for as long as it is away; keys of other nodes stay as they are."""
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


def test_a_node_that_is_no_more_is_owed_nothing(cache: RingCache) -> None:
    """Nobody reads there."""
    new_row({"default": []}, node="gone").save()
    assert relay().rows == 1


def test_a_key_is_owed_again_after_the_relay_has_settled_it(
    cache: RingCache, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is cut off from this process alone, and another has filled the key meanwhile."""
    monkeypatch.setattr(missed_deletes, "SETTLING_SECONDS", 0.0)
    key = next(f"k{n}" for n in range(30) if owner(cache, f"k{n}").name == NODE)
    eject_at_once(cache)
    cache.delete(key)
    OutboxRow.objects.all().delete()  # by a relay elsewhere
    cache.delete(key)
    assert OutboxRow.objects.count() == 1
    other = another_process()
    other.set(key, "meanwhile")
    relay()
    assert other.get(key) is None


def test_what_is_missed_while_a_node_is_told_is_told_before_it_is_let_in(
    cache: RingCache, probes: Probes, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The breaker closes in one step with the look that finds nothing."""
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


def test_more_rows_than_a_node_is_told_of_one_by_one_clear_it(
    cache: RingCache, dead: list[str], services: Services, probes: Probes
) -> None:
    """Whoever wrote them: reading goes no further."""
    limit(cache, 1)
    outbox = ClientOutbox(cache.client)
    for key in dead[:2]:
        write_row("default", {"default": {cache.key_bytes(key)}})
    assert outbox.find(node_of(cache).endpoint, 1) == ALL_KEYS
    assert len(outbox.find(node_of(cache).endpoint, 2).keys) == 2
    assert not outbox.find("ring-b", 0)
    eject(cache, dead[0])
    come_back(cache, services, probes)
    assert cache.get_many(dead) == {}


def test_an_outbox_that_cannot_be_read_is_not_the_nodes_fault(
    cache: RingCache, services: Services, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the error says so."""
    monkeypatch.setattr(ClientOutbox, "find", lambda *_: 1 / 0)
    eject_at_once(cache)
    come_back(cache, services, probes)
    breaker = node_of(cache).breaker
    assert breaker is not None
    assert breaker.state.state == EJECTED
    assert "answers, but its missed deletes cannot be replayed: ZeroDivisionError" in breaker.state.error


def test_aliases_that_share_a_client_are_all_replayed(
    services: Services, probes: Probes, settings: Any
) -> None:
    """They differ in nothing that the client knows."""
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


# How it gets into the outbox


def test_callers_that_wait_at_once_share_one_insert(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes on only when its own row is committed."""
    insert, began, goes_on = outbox_writer._insert, threading.Event(), threading.Event()
    inserted: list[int] = []

    def held(rows: list[OutboxRow]) -> None:
        began.set()
        assert goes_on.wait(10)
        inserted.append(len(rows))
        insert(rows)

    monkeypatch.setattr(outbox_writer, "_insert", held)
    own = outbox_writer.OutboxWriter()
    first = own.write(new_row({"default": [b"0"]}))
    assert began.wait(10)
    others = [own.write(new_row({"default": [str(n).encode()]})) for n in range(1, 6)]
    assert not any(each.done() for each in (first, *others))
    goes_on.set()
    for each in (first, *others):
        each.result(10)
    assert inserted == [1, 5]
    assert OutboxRow.objects.count() == 6


def test_nobody_waits_long_for_a_database_that_hangs(
    cache: RingCache, probes: Probes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once it is known that it does, the memory alone has what is missed, and that is said."""
    own, goes_on = outbox_writer.OutboxWriter(), threading.Event()
    monkeypatch.setattr(outbox_writer, "WRITE_TIMEOUT", 0.0)
    monkeypatch.setattr(outbox_writer, "_writer", own)
    began = threading.Event()

    def hang(_: list[OutboxRow]) -> None:
        began.set()
        goes_on.wait(10)

    monkeypatch.setattr(outbox_writer, "_insert", hang)
    waiting = own.write(new_row({"default": [b"k"]}))
    assert began.wait(10)
    eject_at_once(cache)
    cache.delete_many([f"k{n}" for n in range(30)])
    assert "kept in memory only" in caplog.text
    assert OutboxRow.objects.count() == 0
    goes_on.set()
    waiting.result(10)


def test_a_forked_child_has_a_writer_of_its_own(cache: RingCache, probes: Probes) -> None:
    """The parent's thread is not there."""
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


def test_without_an_outbox_it_is_said_that_the_memory_alone_has_it(
    cache: RingCache, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    """Once; the app is not installed."""
    cache.client.outbox = None
    eject_at_once(cache)
    for n in range(30):
        cache.delete(f"k{n}")
    [said] = [record for record in caplog.records if "only in the memory of each process" in record.message]
    assert "add 'cachebackend' to INSTALLED_APPS" in said.message


class Nowhere:
    """A router that keeps the outbox out of every database."""

    def allow_migrate(self, db: str, app_label: str, **_: Any) -> bool | None:
        return False if app_label == "cachebackend" else None


def test_an_outbox_without_a_table_is_a_warning(
    cache: RingCache, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the checks, and of the log when something is missed."""
    assert not [each for each in run_checks() if each.id == "ringcache.W003"]
    with override_settings(DATABASE_ROUTERS=["tests.integration.test_missed.Nowhere"]):
        [found] = [each for each in run_checks() if each.id == "ringcache.W003"]
        assert "has no outbox" in found.msg
        assert not ClientOutbox(cache.client).keep(node_of(cache).endpoint, ALL_KEYS)
    assert "ringcache.W003" in caplog.text
