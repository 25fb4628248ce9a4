"""Replies made at random, from a node that is not one, to every client: only our own errors come out."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import caches
from django.test import override_settings

from cachebackend import RingCache, protocol
from cachebackend.client.queue import QueueClient
from cachebackend.errors import NodeUnavailableError, RingCacheError
from cachebackend.options import WriteBehindOptions
from cachebackend.protocol.queue import Partition, RowWrite
from cachebackend.protocol.queue.queue_state import QueueState
from tests.fuzz.mutants import count
from tests.fuzz.nonsense import any_reply, nonsense
from tests.integration.fake_node import FakeNode, bulk
from tests.integration.test_replies import wait_until

#: No reply is waited for longer; most nonsense ends a connection at once.
TIMEOUT = 0.02
#: The most bytes by which the process may grow meanwhile.
GROWTH = 300_000_000
#: What a caller of these must expect of a value that is not an integer, or does not exist.
EXPECTED: dict[str, tuple[type[Exception], ...]] = {
    "incr": (ValueError, TypeError, OverflowError),
    "aincr": (ValueError, TypeError, OverflowError),
    "incr_version": (ValueError,),
}
OPERATIONS: dict[str, Callable[[RingCache], object]] = {
    "get": lambda cache: cache.get("k"),
    "get_many": lambda cache: cache.get_many(["a", "b", "c"]),
    "set": lambda cache: cache.set("k", 1),
    "set_many": lambda cache: cache.set_many({"k": 1, "l": [2]}),
    "add": lambda cache: cache.add("k", 1),
    "replace": lambda cache: cache.set("k", 1, xx=True),
    "touch": lambda cache: cache.touch("k", 5),
    "incr": lambda cache: cache.incr("k"),
    "incr_version": lambda cache: cache.incr_version("k"),
    "delete": lambda cache: cache.delete("k"),
    "delete_many": lambda cache: cache.delete_many(["k", "l"]),
    "clear": lambda cache: cache.clear(),
    "clear_all": lambda cache: cache.clear_all(),
    "get_or_set": lambda cache: cache.get_or_set("k", lambda: 7, stale_for=5),
    "get_or_set with tags": lambda cache: cache.get_or_set("k", lambda: 7, tags=["x", "y"]),
    "get_or_set_many": lambda cache: cache.get_or_set_many(["a", "b"], lambda keys: dict.fromkeys(keys, 1)),
    "make_stale": lambda cache: cache.make_stale("k", 5),
    "invalidate_tags": lambda cache: cache.invalidate_tags("x", "y"),
    "ttl": lambda cache: cache.ttl("k"),
    "has_key": lambda cache: cache.has_key("k"),
    "keys": lambda cache: cache.keys("*"),
    "inspect": lambda cache: cache.client.run(protocol.telemetry.inspect(cache.client.context, b"k")),
    "node_infos": lambda cache: cache.client.run(protocol.telemetry.node_infos(cache.client.context)),
    "read_counts": lambda cache: cache.client.run(
        protocol.telemetry.read_counts(cache.client.context, [b"c"])
    ),
    "read_run_ages": lambda cache: cache.client.run(
        protocol.telemetry.read_run_ages(cache.client.context, b"c")
    ),
    "quarantine": lambda cache: cache.client.run(
        protocol.quarantine(cache.client.context, [b"k"], bytes(16))
    ),
    "unquarantine": lambda cache: cache.client.run(
        protocol.unquarantine(cache.client.context, [b"k"], bytes(16))
    ),
}
ASYNC_OPERATIONS: dict[str, Callable[[RingCache], Any]] = {
    "aget": lambda cache: cache.aget("k"),
    "aget_many": lambda cache: cache.aget_many(["a", "b", "c"]),
    "aset": lambda cache: cache.aset("k", 1),
    "aset_many": lambda cache: cache.aset_many({"k": 1, "l": [2]}),
    "aadd": lambda cache: cache.aadd("k", 1),
    "aincr": lambda cache: cache.aincr("k"),
    "adelete": lambda cache: cache.adelete("k"),
    "aget_or_set": lambda cache: cache.aget_or_set("k", lambda: 7, stale_for=5, tags=["x"]),
    "agather": lambda cache: asyncio.gather(*[cache.aget(f"k{n}") for n in range(10)]),
}
PARTITION, STATE = Partition("shop.meter", 0), QueueState(0, "ab", 3, 1, 5, None, {})
WRITE = RowWrite(b"u", b"1\0", [(b"1\0count\0", b"d", b"1")], [b"\0count\0i\0"])
QUEUE_OPERATIONS: dict[str, Callable[[QueueClient], object]] = {
    "fold_one": lambda queue: queue.fold_one(PARTITION, WRITE),
    "fold": lambda queue: queue.run(protocol.queue.fold(queue.context, [(PARTITION, [WRITE, WRITE])])),
    "dirty": lambda queue: queue.run(protocol.queue.dirty(queue.context)),
    "queue_states": lambda queue: queue.run(protocol.queue.queue_states(queue.context, [PARTITION])),
    "pending": lambda queue: queue.run(protocol.queue.pending(queue.context, 0, PARTITION, [b"f", b"g"])),
    "contents": lambda queue: queue.run(protocol.queue.contents(queue.context, 0, PARTITION, 1)),
    "batch_sizes": lambda queue: queue.run(protocol.queue.batch_sizes(queue.context, 0, PARTITION, [1, 2])),
    "seal": lambda queue: queue.run(protocol.queue.seal(queue.context, STATE, PARTITION, 2)),
    "seal_many": lambda queue: queue.run(protocol.queue.seal_many(queue.context, {PARTITION: STATE})),
    "sync": lambda queue: queue.run(protocol.queue.sync(queue.context, 0, {PARTITION: 2})),
    "sync_fault": lambda queue: queue.run(protocol.queue.sync_fault(queue.context, 0)),
    "close": lambda queue: queue.run(
        protocol.queue.close(queue.context, STATE, PARTITION, range(2, 3), "aa")
    ),
    "node_settings": lambda queue: queue.run(protocol.queue.node_settings(queue.context, 0, [b"appendonly"])),
    "partition_counts": lambda queue: queue.run(protocol.queue.partition_counts(queue.context, [0])),
    "exchange_partition_counts": lambda queue: queue.run(
        protocol.queue.exchange_partition_counts(queue.context, {0: (None, 4)})
    ),
    "share_partition_count": lambda queue: queue.run(protocol.queue.share_partition_count(queue.context)),
    "are_empty": lambda queue: queue.run(protocol.queue.are_empty(queue.context)),
    "request_drains": lambda queue: queue.run(protocol.queue.request_drains(queue.context, [PARTITION])),
    "begin_drain": lambda queue: queue.run(protocol.queue.begin_drain(queue.context, PARTITION)),
    "pending_requests": lambda queue: queue.run(protocol.queue.pending_requests(queue.context, [PARTITION])),
}


@pytest.fixture
def fake() -> Iterator[FakeNode]:
    node = FakeNode()
    yield node
    node.close()


def open_cache(fake: FakeNode, **options: Any) -> RingCache:
    """Return an alias whose only node is the fake one."""
    options = {"socket_timeout": TIMEOUT, "lease_timeout": 0.02, **options}
    block = {"BACKEND": "cachebackend.RingCache", "LOCATION": [fake.url], "OPTIONS": options}
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        cache = caches.create_connection("default")
    assert isinstance(cache, RingCache)
    cache.client.outbox = None  # a replay asks no database
    return cache


def close_breaker(client: Any) -> None:
    breaker = client.nodes[0].breaker
    breaker.close()


def echo(command: list[bytes]) -> bytes:
    """Answer a GET with its own key, so that a reply to another command shows."""
    return bulk(b"Vm\0" + bytes([0xA0 + 8]) + command[1][-8:])


def attempt(name: str, function: Callable[[], object], sent: list[object]) -> None:
    """Call a function; fail if an error comes out that is not ours, and say which replies caused it."""
    del sent[:]
    try:
        function()
    except RingCacheError:
        pass
    except EXPECTED.get(name, ()):
        pass
    except Exception as error:
        raise AssertionError(f"{name} got {sent!r}: {type(error).__name__}: {error}") from error


def recorded(generator: random.Random, sent: list[object]) -> Callable[[list[bytes]], bytes | None]:
    def answer(command: list[bytes]) -> bytes | None:
        reply = nonsense(generator, command)
        sent.append((command[0], reply))
        return reply

    return answer


def own_reply(cache: RingCache, key: bytes) -> object:
    """Read a key; None if this machine is too busy to answer in time, and the alias raises failures."""
    try:
        return cache.client.get(key)
    except NodeUnavailableError:
        return None


async def call_and_read(cache: RingCache, fake: FakeNode, name: str, key: bytes) -> object:
    """Call an operation, and then read a key over the same connection, if it is still open."""
    try:
        await ASYNC_OPERATIONS[name](cache)
    finally:
        fake.answer = echo
        close_breaker(cache.client)
        read = await cache.client.aget(key)
        assert read in {key.decode(), None}
    return read


@pytest.mark.parametrize("mode", [{}, {"lease_on_get": True}, {"codec": "json", "on_node_failure": "raise"}])
def test_a_cache_survives_any_replies(fake: FakeNode, mode: dict[str, Any]) -> None:
    """Blocking and in asyncio; after each call the next one gets its own reply."""
    generator, sent, tried = random.Random(random.getrandbits(32)), list[object](), count(60)
    cache, before = open_cache(fake, **mode), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for turn in tried:
        key = b"key%05d" % (turn % 100_000)
        close_breaker(cache.client)
        fake.answer = recorded(generator, sent)
        name = generator.choice([*OPERATIONS, *ASYNC_OPERATIONS])
        if name in ASYNC_OPERATIONS:
            attempt(name, partial(asyncio.run, call_and_read(cache, fake, name, key)), sent)
        else:
            attempt(name, partial(OPERATIONS[name], cache), sent)
            fake.answer = echo
            close_breaker(cache.client)
            got = own_reply(cache, key)
            assert got in {key.decode(), None}, (name, got, sent)
        cache.close()
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < GROWTH
    print(f"{len(tried)} calls of a cache in mode {mode}")
    cache.client.close()


def test_a_queue_survives_any_replies(fake: FakeNode) -> None:
    """Each operation of write-behind returns, or raises an error of ours."""
    generator, sent, tried = random.Random(random.getrandbits(32)), list[object](), count(80)
    queue = QueueClient(WriteBehindOptions.read({"nodes": [fake.url], "socket_timeout": TIMEOUT}))
    for _ in tried:
        close_breaker(queue)
        fake.answer = recorded(generator, sent)
        name = generator.choice(list(QUEUE_OPERATIONS))
        attempt(name, partial(QUEUE_OPERATIONS[name], queue), sent)
    print(f"{len(tried)} calls of a queue")
    queue.close()


def test_a_handshake_survives_any_replies(fake: FakeNode) -> None:
    """A connection that is made is as good as any."""
    generator, sent, tried = random.Random(random.getrandbits(32)), list[object](), count(40)
    cache = open_cache(fake)
    fake.answer = echo
    for _ in tried:
        close_breaker(cache.client)
        cache.client.close()
        fake.handshake = recorded(generator, sent)
        attempt("get", lambda: cache.client.get(b"key00001"), sent)
        attempt("aget", lambda: asyncio.run(cache.client.aget(b"key00002")), sent)
    print(f"{len(tried)} handshakes")
    cache.client.close()


def test_a_tracking_connection_survives_any_messages(fake: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays open, or is opened again."""
    monkeypatch.setattr("cachebackend.node.tracking.RETRY_SECONDS", 0.0)
    generator, tried = random.Random(random.getrandbits(32)), count(30)
    cache = open_cache(fake, near={"max_entries": 10})
    cache.get("first")
    near = cache.client._near
    assert near is not None
    for _ in tried:
        wait_until(lambda: near.tracked_nodes)
        message = nonsense(generator, [b"GET"]) or any_reply(generator)
        with contextlib.suppress(OSError):
            fake.tracking[-1].sendall(message)
    opened = len(fake.tracking)
    for connection in fake.tracking:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: near.tracked_nodes and len(fake.tracking) > opened)
    print(f"{len(tried)} messages to a near cache")
    cache.client.close()
