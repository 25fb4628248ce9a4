"""Nodes that fail, hang and return: what reads return meanwhile, and that no deleted value returns."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.cache import caches
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from cachebackend import RingCache
from cachebackend.errors import NodeUnavailableError
from cachebackend.invalidation.outbox import ClientOutbox
from cachebackend.models import OutboxRow
from cachebackend.node import Node
from cachebackend.node.breaker import EJECTED, UP
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
from tests.waits import wait_until

pytestmark = [
    pytest.mark.ring_of_nodes,
    pytest.mark.hangs,
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]


def test_hits_of_other_nodes_are_returned(cache: RingCache, dead: list[str], probes: Probes) -> None:
    """Only the keys of the failed node miss. `set_many` returns the keys that could not be stored."""
    found = cache.get_many([f"k{n}" for n in range(30)])
    assert found == {f"k{n}": n for n in range(30) if f"k{n}" not in dead}
    assert sorted(cache.set_many(dict.fromkeys(dead, 1))) == sorted(dead)
    assert cache.get(dead[0], "missing") == "missing"


def test_an_ejected_node_costs_nothing(
    cache: RingCache, dead: list[str], probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three timeouts it gets no commands until a probe is due."""
    while state(cache) == UP:
        cache.get(dead[0])

    def fail(*_: Any) -> Any:
        raise AssertionError

    pool = node_of(cache)._pool
    monkeypatch.setattr(pool, "take", fail)
    assert cache.get(dead[0]) is None
    assert cache.get_many(dead) == {}
    assert asyncio.run(cache.aget(dead[0])) is None
    with pytest.raises(ValueError, match="not found"):
        cache.incr(dead[0])


@pytest.mark.parametrize("is_async", [False, True])
def test_a_value_that_cannot_be_moved_stays(
    cache: RingCache, dead: list[str], probes: Probes, is_async: bool
) -> None:
    """The node of the new version is down; that is reported as for a missing key."""
    ring, version = cache.client.ring, cache.version + 1
    targets = {n: ring.names[ring.owner(cache.key_bytes(f"k{n}", version))] for n in range(30)}
    key = next(f"k{n}" for n, name in targets.items() if name == NODE and f"k{n}" not in dead)
    value = cache.get(key)
    with pytest.raises(ValueError, match="not found"):
        asyncio.run(cache.aincr_version(key)) if is_async else cache.incr_version(key)
    assert cache.get(key) == value


@pytest.mark.parametrize("way", ["get_or_set", "get_or_set_many", "aget_or_set_many", "tags"])
def test_a_call_waits_for_a_hung_node_once(
    cache: RingCache, dead: list[str], probes: Probes, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the call has several round trips."""
    node, sent = node_of(cache), []
    for name in ("call", "send", "submit"):
        method = getattr(node, name)
        monkeypatch.setattr(
            node, name, lambda *given, method=method: sent.append(threading.get_ident()) or method(*given)
        )
    calls: dict[str, Callable[[], Any]] = {
        "get_or_set": lambda: cache.get_or_set(dead[0], lambda: 1),
        "get_or_set_many": lambda: cache.get_or_set_many(dead, lambda names: dict.fromkeys(names, 1)),
        "aget_or_set_many": lambda: asyncio.run(
            cache.aget_or_set_many(dead, lambda names: dict.fromkeys(names, 1))
        ),
        "tags": lambda: cache.get_or_set(dead[0], lambda: 1, tags=[f"t{n}" for n in range(9)]),
    }
    calls[way]()
    assert sent.count(threading.get_ident()) == 1  # another thread publishes counts now and then


def test_tasks_that_read_from_a_hung_node_at_once_wait_for_it_once(
    cache: RingCache, dead: list[str], probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share the failed attempt to connect. In a queue, the last task would wait for all timeouts."""
    handshake, tries = node_of(cache).handshake, []
    connect = handshake.connect_async

    async def counted(protocol: Any) -> Any:
        tries.append(1)
        return await connect(protocol)

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*[cache.aget(dead[0], "missing") for _ in range(40)])

    monkeypatch.setattr(handshake, "connect_async", counted)
    assert asyncio.run(all_at_once()) == ["missing"] * 40
    assert len(tries) == 1
    assert state(cache) == EJECTED


def test_a_node_whose_probe_cannot_start_is_probed_later(
    cache: RingCache, dead: list[str], services: Services, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller gets no error. The node serves no reads until its missed delete is replayed."""

    def no_thread(*_: Any) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    with monkeypatch.context() as patch:
        patch.setattr(Node, "_spawn", no_thread)
        cache.delete(dead[0])
    assert state(cache) == EJECTED
    come_back(cache, services, probes)
    assert state(cache) == UP
    assert cache.get(dead[0]) is None


def test_a_node_whose_probe_was_interrupted_is_probed_again(
    cache: RingCache, dead: list[str], services: Services, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler may raise before the probe's thread exists, and any error may end the probe itself."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    breaker = node_of(cache).breaker
    assert breaker is not None
    eject(cache, dead[0])
    breaker._probe_at = 0.0
    with monkeypatch.context() as patch:
        patch.setattr(Node, "_spawn", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cache.get(dead[0])
    breaker._claim_lost_at = 0.0
    with monkeypatch.context() as patch:
        patch.setattr(Node, "_replay_and_close", interrupt)
        come_back(cache, services, probes)
    assert state(cache) == EJECTED
    come_back(cache, services, probes)
    assert state(cache) == UP


@pytest.mark.parametrize(
    "way", ["delete", "delete_many", "adelete", "set", "set_many", "clear", "make_stale"]
)
def test_a_node_that_returns_serves_no_deleted_value(
    cache: RingCache, dead: list[str], services: Services, probes: Probes, way: str
) -> None:
    """Missed deletes and missed writes are replayed to it before it serves reads."""
    key = dead[0]
    eject(cache, key)
    changes: dict[str, Callable[[], Any]] = {
        "delete": lambda: cache.delete(key),
        "delete_many": lambda: cache.delete_many(dead),
        "adelete": lambda: asyncio.run(_and_close(cache.adelete(key))),
        "set": lambda: cache.set(key, "new"),
        "set_many": lambda: cache.set_many({key: "new"}),
        "clear": cache.clear,
        "make_stale": lambda: cache.make_stale(key, 10),
    }
    changes[way]()
    come_back(cache, services, probes)
    assert state(cache) == UP
    assert cache.get(key) is None
    untouched = dead[-1]
    if way in {"delete", "set", "adelete", "set_many", "make_stale"} and untouched != key:
        assert cache.get(untouched) is not None


async def _and_close(call: Any) -> Any:
    try:
        return await call
    finally:
        await sync_to_async(connections.close_all)()


def test_missed_deletes_of_another_process_are_replayed_too(
    cache: RingCache, dead: list[str], services: Services, probes: Probes
) -> None:
    """They are in the outbox, which all processes share."""
    from cachebackend.invalidation.outbox import write_row

    eject(cache, dead[0])
    write_row("default", {"default": {cache.key_bytes(dead[0])}})
    come_back(cache, services, probes)
    assert cache.get(dead[0]) is None


def test_a_missed_delete_is_in_the_outbox_until_the_relay_confirms(
    cache: RingCache, dead: list[str], services: Services, probes: Probes
) -> None:
    """One row, however often it was missed. The rollback of a transaction does not remove it."""
    from django.db import transaction

    eject(cache, dead[0])
    with transaction.atomic():
        cache.delete(dead[0])
        cache.delete(dead[0])
        transaction.set_rollback(True)
    assert OutboxRow.objects.count() == 1


def test_a_node_that_missed_too_much_is_cleared(
    dead: list[str], services: Services, probes: Probes, settings: Any
) -> None:
    """All keys of this alias are deleted there."""
    block = settings.CACHES["default"]
    options = block.get("OPTIONS", {}) | {"replay_limit": 1}
    with override_settings(CACHES=settings.CACHES | {"default": block | {"OPTIONS": options}}):
        cache = caches.create_connection("default")
        assert isinstance(cache, RingCache)
        eject(cache, dead[0])
        cache.delete_many(dead[:2])
        come_back(cache, services, probes)
        assert state(cache) == UP
        assert cache.get_many(dead) == {}


def test_a_node_serves_no_reads_while_the_replay_fails(
    cache: RingCache, dead: list[str], services: Services, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the outbox cannot be read."""
    eject(cache, dead[0])
    cache.delete(dead[0])

    def away(*_: Any) -> Any:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(ClientOutbox, "missed_by", away)
        come_back(cache, services, probes)
        assert state(cache) == EJECTED
    come_back(cache, services, probes)
    assert state(cache) == UP
    assert cache.get(dead[0]) is None


def test_a_delete_that_timed_out_is_replayed_although_the_node_was_not_ejected(
    cache: RingCache, dead: list[str], services: Services, probes: Probes
) -> None:
    """One failure does not open the breaker, but the delete is missed."""
    cache.delete(dead[0])
    assert state(cache) == UP
    services.resume(NODE)
    probes.run()
    assert cache.get(dead[0]) is None
    assert cache.client.context.missed.count(cache.client.nodes.index(node_of(cache))) == 0


@pytest.mark.parametrize("way", ["adelete", "aset", "adelete_many", "ainvalidate_tags"])
def test_an_event_loop_does_not_wait_for_the_outbox(
    cache: RingCache, dead: list[str], probes: Probes, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call waits until the row is written; other tasks run meanwhile."""
    keep, started, released = ClientOutbox.keep, threading.Event(), threading.Event()
    was_released: list[bool] = []

    def hang(outbox: ClientOutbox, *given: Any) -> bool:
        started.set()
        was_released.append(released.wait(10))
        return keep(outbox, *given)

    async def run() -> None:
        arguments: dict[str, Any] = {
            "aset": (dead[0], 1),
            "adelete_many": (dead,),
            "ainvalidate_tags": (tag,),
        }
        task = asyncio.ensure_future(_and_close(getattr(cache, way)(*arguments.get(way, (dead[0],)))))
        while not started.is_set():
            await asyncio.sleep(0)
        assert not task.done()
        released.set()
        await task

    tag = next(t for t in map(str, range(99)) if cache.client.ring.owner(cache.tag_bytes(t)) == 0)
    eject(cache, dead[0])
    monkeypatch.setattr(ClientOutbox, "keep", hang)
    asyncio.run(run())
    assert was_released == [True]
    assert OutboxRow.objects.count() == 1


def test_status_shows_ejected_then_replaying_then_up(
    cache: RingCache, dead: list[str], services: Services, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is replaying while missed deletes are replayed and the node serves no reads."""

    def status() -> tuple[str, bool, object]:
        out = StringIO()
        try:
            call_command("ring", "status", "--alias", "default", "--json", stdout=out)
            is_well = True
        except SystemExit:
            is_well = False
        [row] = [row for row in json.loads(out.getvalue())["aliases"]["default"] if row["node"] == NODE]
        return row["state"], is_well, cache.get(dead[0])

    states = []

    def record_status(client: ClientOutbox, *given: Any) -> Any:
        states.append(status())
        return missed_by(client, *given)

    eject(cache, dead[0])
    cache.delete(dead[0])
    states.append(status())
    missed_by = ClientOutbox.missed_by
    monkeypatch.setattr(ClientOutbox, "missed_by", record_status)
    come_back(cache, services, probes)
    assert states == [("down", False, None), ("replaying", False, None)]
    wait_until(lambda: status() == ("up", True, None))  # when this process has reported its view again
    assert cache.get_many(dead[1:]) == {key: int(key[1:]) for key in dead[1:]}


def test_failures_raise_if_the_settings_say_so(dead: list[str], probes: Probes, settings: Any) -> None:
    """Every method raises, and the missed delete is in the outbox all the same."""
    block = settings.CACHES["default"]
    options = block.get("OPTIONS", {}) | {"on_node_failure": "raise"}
    with override_settings(CACHES=settings.CACHES | {"default": block | {"OPTIONS": options}}):
        cache = caches.create_connection("default")
        assert isinstance(cache, RingCache)
        key = dead[0]
        calls: list[Callable[[], Any]] = [
            lambda: cache.get(key),
            lambda: cache.set(key, 1),
            lambda: cache.add(key, 1),
            lambda: cache.touch(key),
            lambda: cache.incr(key),
            lambda: cache.has_key(key),
            lambda: cache.get_many(dead),
            lambda: cache.delete(key),
            lambda: cache.delete_many(dead),
            lambda: cache.get_or_set(key, 1),
        ]
        for call in calls:
            with pytest.raises(NodeUnavailableError):
                call()
    assert OutboxRow.objects.exists()


def test_a_node_that_flaps_serves_no_deleted_value(
    cache: RingCache, services: Services, probes: Probes
) -> None:
    """It stops and returns with its old memory; a value that was deleted meanwhile is never read."""
    keys = [f"k{n}" for n in range(30) if owner(cache, f"k{n}").name == NODE]
    for turn in range(100 if os.environ.get("EXPLORE") == "all" else 10):
        cache.set(keys[0], turn)
        assert cache.get(keys[0]) == turn
        services.stop(NODE)
        cache.delete(keys[0])
        come_back(cache, services, probes)
        assert state(cache) == UP
        assert cache.get(keys[0]) is None
