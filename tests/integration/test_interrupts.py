"""A signal handler that raises anywhere in a call of the cache leaves everything in order."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine, Iterator
from itertools import count
from typing import Any

import pytest

from cachebackend import RingCache
from cachebackend.client import RingClient
from cachebackend.errors import NodeUnavailableError
from cachebackend.node import Node
from cacheproject.services import Services
from tests.fix_services import connections_of
from tests.integration.held_node import NODE, node_of, owner
from tests.interrupting import FORGOTTEN_THREADS, LIMITS, handler, interrupt, interrupted_everywhere
from tests.waits import wait_until

__all__ = ["handler"]

KEYS = [f"key-{number}" for number in range(30)]
VALUES = {key: f"value of {key}" for key in KEYS}

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("handler"),
    FORGOTTEN_THREADS,
]


@pytest.fixture
def cache(ring_cache: RingCache) -> RingCache:
    """The default alias with some keys."""
    ring_cache.set_many(VALUES, 600)
    ring_cache.set("number", 7, 600)
    return ring_cache


def check_order(cache: RingCache) -> None:
    """Check that each key has its value, that no lock is held and that no node is ejected."""
    values = cache.get_many(KEYS), [cache.get(key) for key in KEYS[:6]]
    check_client(cache.client)
    assert values == (VALUES, [VALUES[key] for key in KEYS[:6]])


def unknown_connections(cache: RingCache, services: Services) -> int:
    """Return how many connections the servers have that are not idle ones of this client."""
    return connections_of(services) - sum(len(node._pool._idle) for node in cache.client.nodes)


def check_connections(cache: RingCache, services: Services, before: int) -> None:
    """Check that the servers have no more unknown connections than before: those of earlier tests.

    They notice soon that a connection was closed.
    """
    gc.collect()
    wait_until(lambda: unknown_connections(cache, services) <= before)


def check_client(client: RingClient) -> None:
    """Check that no lock of a client is held, and that none of its nodes is ejected."""
    for node in client.nodes:
        check_node(node)
    for lock in (client.context.missed._lock, client.context.orphans._lock, client.counters._lock):
        assert lock.acquire(timeout=10)  # a probe may hold it for a moment
        lock.release()


def check_node(node: Node) -> None:
    breaker = node.breaker
    assert breaker is not None
    assert not breaker._lock.locked()
    assert not breaker.is_open, breaker.state


def absent() -> Iterator[str]:
    return (f"absent-{number}" for number in count())


_absent = absent()
#: The first place that is interrupted by a TimeoutError.
TIMEOUT = next(place for place, limit in enumerate(LIMITS) if issubclass(limit, TimeoutError))
OPERATIONS: dict[str, Callable[[RingCache], Any]] = {
    "get": lambda cache: cache.get(KEYS[0]),
    "get_many": lambda cache: cache.get_many(KEYS),
    "set": lambda cache: cache.set("written", {"a": (1, 2)}, 60),
    "set_many": lambda cache: cache.set_many(VALUES, 600),
    "add": lambda cache: cache.add(KEYS[0], "another", 60),
    "touch": lambda cache: cache.touch(KEYS[0], 600),
    "incr": lambda cache: cache.incr("number"),
    "ttl": lambda cache: cache.ttl(KEYS[0]),
    "has_key": lambda cache: cache.has_key(KEYS[0]),
    "delete": lambda cache: cache.delete(next(_absent)),
    "delete_many": lambda cache: cache.delete_many([next(_absent) for _ in range(9)]),
    "delete_pattern": lambda cache: cache.delete_pattern("nothing*"),
    "keys": lambda cache: list(cache.keys("key-*")),
    "get_or_set": lambda cache: cache.get_or_set(next(_absent), lambda: 1, 60),
    "get_or_set_many": lambda cache: cache.get_or_set_many(
        [next(_absent) for _ in range(6)], lambda names: dict.fromkeys(names, 1), 60
    ),
    "tags": lambda cache: cache.get_or_set(next(_absent), lambda: 1, 60, tags=["a", "b"]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_interrupted_call_leaves_everything_in_order(
    cache: RingCache, name: str, services: Services
) -> None:
    """Its exception reaches the caller; no reply is mixed up, no lock held, no connection left open."""
    before = unknown_connections(cache, services)
    assert interrupted_everywhere(lambda: OPERATIONS[name](cache), lambda: check_order(cache)) == []
    check_connections(cache, services, before)


def test_a_time_limit_is_no_failure_of_a_node(cache: RingCache) -> None:
    """Limits that raise a TimeoutError, more in a row than failures eject a node."""
    for point in range(TIMEOUT, 12 * len(LIMITS), len(LIMITS)):
        cache.get(KEYS[0])  # it connects again
        place = interrupt(lambda: cache.get(KEYS[0]), point)
        if place is not None:
            assert place.has_reached_caller, place
            breaker = owner(cache, KEYS[0]).breaker
            assert breaker is not None
            assert not breaker.has_failures


# Python ignores what is raised in the finalizer of a connection
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_handshake_leaves_no_connection(cache: RingCache, services: Services) -> None:
    """Also while the socket is opened, and while the node is asked for the user's rights."""

    def connect_anew() -> None:
        cache.client.close()
        cache.get(KEYS[0])

    before = unknown_connections(cache, services)
    swallowed = interrupted_everywhere(connect_anew, lambda: check_order(cache))
    assert swallowed == []
    check_connections(cache, services, before)


# Python's own start of a thread, interrupted, lets the thread fail before it calls our function
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.ring_of_nodes
def test_a_node_whose_probe_is_interrupted_comes_back(cache: RingCache) -> None:
    """From any place where the caller that starts its probe may be interrupted."""
    key = next(key for key in KEYS if owner(cache, key).name == NODE)
    breaker = node_of(cache).breaker
    assert breaker is not None

    def start_probe() -> None:
        breaker.failed(NodeUnavailableError("ejected by a test"), at_once=True)
        breaker._probe_at = 0.0
        cache.get(key)

    def check() -> None:
        for _ in range(2):
            for thread in threading.enumerate():
                if thread.name == "ringcache-probe" and thread.is_alive():
                    thread.join(10)
            breaker._probe_at = 0.0
            breaker._claim_lost_at = min(
                breaker._claim_lost_at, 0.0
            )  # a claim may be lost: it ends by itself
            cache.get(key)
        check_order(cache)

    assert interrupted_everywhere(start_probe, check) == []


async def cancelled(coroutine: Coroutine[Any, Any, Any], steps: int) -> bool:
    """Cancel a task after some steps of the event loop; return whether it had not ended before."""
    task = asyncio.ensure_future(coroutine)
    for _ in range(steps):
        await asyncio.sleep(0)
    was_cancelled = task.cancel()
    await asyncio.wait([task])
    return was_cancelled


ASYNC_OPERATIONS: dict[str, Callable[[RingCache], Coroutine[Any, Any, Any]]] = {
    "aget": lambda cache: cache.aget(KEYS[0]),
    "aget_many": lambda cache: cache.aget_many(KEYS),
    "aset": lambda cache: cache.aset("written", 1, 60),
    "aset_many": lambda cache: cache.aset_many(VALUES, 600),
    "aincr": lambda cache: cache.aincr("number"),
    "adelete": lambda cache: cache.adelete(next(_absent)),
    "aget_or_set": lambda cache: cache.aget_or_set(next(_absent), lambda: 1, 60),
}


@pytest.mark.parametrize("is_connected", [True, False], ids=["connected", "connecting"])
@pytest.mark.parametrize("name", ASYNC_OPERATIONS)
def test_a_cancelled_task_leaves_everything_in_order(
    cache: RingCache, services: Services, name: str, is_connected: bool
) -> None:
    """At each step of the event loop; other tasks of the loop get their own replies."""

    async def cancel_after(steps: int) -> bool:
        if is_connected:
            await cache.aget_many(KEYS)
        was_cancelled = await cancelled(ASYNC_OPERATIONS[name](cache), steps)
        values = await asyncio.gather(cache.aget_many(KEYS), *map(cache.aget, KEYS[:6]))
        assert values == [VALUES, *[VALUES[key] for key in KEYS[:6]]]
        return was_cancelled

    before = unknown_connections(cache, services)
    assert asyncio.run(cancel_after(0))
    for steps in count(1):
        if not asyncio.run(cancel_after(steps)):
            break
    check_order(cache)
    check_connections(cache, services, before)
