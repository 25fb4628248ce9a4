"""Leases and quarantines that never expire: another program has stored them, and they are deleted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from cachebackend import RingCache, protocol
from cachebackend.codec import RELEASED
from cachebackend.testing import empty_ring

pytestmark = [
    pytest.mark.django_db(databases=["default", "lite"]),
    pytest.mark.usefixtures("empty_nodes"),
]
TOKEN = b"t" * 16
#: Used by these tests alone: the replay of a delete that another test has left would delete its key.
KEY = "endless"


@pytest.fixture(params=[RELEASED, b"Q" + bytes(16), b"Q" + bytes(32)], ids=["released", "one", "two"])
def record(request: pytest.FixtureRequest) -> bytes:
    """A lease without a token, and quarantines of one and two writers."""
    return bytes(request.param)


def command(cache: RingCache, name: bytes, *arguments: bytes) -> Any:
    """Send a command about the key to its node."""
    key = cache.key_bytes(KEY)
    return cache.client.nodes[cache.client.ring.owner(key)].call((name, key, *arguments))


def load() -> str:
    return "loaded"


READS: dict[str, Callable[[RingCache], Any]] = {
    "get_or_set": lambda cache: cache.get_or_set(KEY, load),
    "aget_or_set": lambda cache: async_to_sync(cache.aget_or_set)(KEY, load),
    "with tags": lambda cache: cache.get_or_set(KEY, load, tags=["t"]),
    "with stale values": lambda cache: cache.get_or_set(KEY, load, 60, stale_for=60),
    "get_or_set_many": lambda cache: cache.get_or_set_many([KEY], lambda keys: dict.fromkeys(keys, load())),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_reader_deletes_it(ring_cache: RingCache, record: bytes, read: Callable[[RingCache], Any]) -> None:
    """This reader loads without a lease, and the next one has a lease."""
    command(ring_cache, b"SET", record)
    read(ring_cache)
    assert command(ring_cache, b"GET") is None
    read(ring_cache)
    assert ring_cache.get(KEY) == "loaded"


def test_a_reader_leaves_it_if_it_expires(ring_cache: RingCache, record: bytes) -> None:
    """It is a writer's or a reader's own."""
    command(ring_cache, b"SET", record, b"PX", b"50000")
    assert ring_cache.get_or_set(KEY, load) == "loaded"
    assert command(ring_cache, b"GET") == record


def test_lease_on_get_deletes_it(record: bytes) -> None:
    """The next value that is set is stored."""
    with empty_ring(lease_on_get=True) as cache:
        command(cache, b"SET", record)
        for _ in range(2):
            cache.get(KEY)
            cache.set(KEY, "stored")
            cache.close()
        assert cache.get(KEY) == "stored"


WRITES: dict[str, tuple[Callable[[RingCache], object], Any]] = {
    "delete": (lambda cache: cache.delete(KEY), None),
    "delete_many": (lambda cache: cache.delete_many([KEY]), None),
    "add": (lambda cache: cache.add(KEY, "new"), "new"),
    "make_stale": (lambda cache: cache.make_stale(KEY, 5), None),
}


@pytest.mark.parametrize(("write", "value"), WRITES.values(), ids=WRITES)
def test_a_write_replaces_it(
    ring_cache: RingCache, record: bytes, write: Callable[[RingCache], object], value: Any
) -> None:
    """As it would replace an absent key."""
    command(ring_cache, b"SET", record)
    write(ring_cache)
    assert command(ring_cache, b"GET") == (value and ring_cache.client.context.codec.encode(value, b""))


def test_a_strict_write_replaces_it(ring_cache: RingCache, record: bytes) -> None:
    """After the write the key is gone, and no token of another program stays."""
    command(ring_cache, b"SET", record)
    context, keys = ring_cache.client.context, [ring_cache.key_bytes(KEY)]
    ring_cache.client.run(protocol.quarantine(context, keys, TOKEN))
    assert command(ring_cache, b"GET") == b"Q" + TOKEN
    assert command(ring_cache, b"PTTL") > 0
    ring_cache.client.run(protocol.unquarantine(context, keys, TOKEN))
    assert command(ring_cache, b"GET") is None
