"""A signal handler that raises anywhere in an operation leaves everything in order.

``INTERRUPT=all`` interrupts at every place, and not only at some of them.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from cachebackend import RingCache
from cachebackend.node import Node
from cacheproject.services import Services
from tests.fix_services import connections_of
from tests.interrupting import interrupt, raising_handler

#: One in ``STEP`` places of an operation is interrupted.
STEP = 1 if os.environ.get("INTERRUPT") == "all" else 11
KEYS = [f"key-{number}" for number in range(30)]
VALUES = {key: f"value of {key}" for key in KEYS}

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "lite"]),
    pytest.mark.usefixtures("handler"),
]


@pytest.fixture
def handler() -> Iterator[None]:
    """The signal of the interruptions has a handler that raises."""
    with raising_handler():
        yield


@pytest.fixture
def cache(ring_cache: RingCache) -> RingCache:
    """The default alias with some keys."""
    ring_cache.set_many(VALUES, 600)
    ring_cache.set("number", 7, 600)
    return ring_cache


def interrupted_everywhere(operation: Callable[[], object], check: Callable[[], object]) -> list[str]:
    """Interrupt an operation at each place, and check after each; return the places that swallowed it."""
    operation()
    swallowed = []
    for point in count(0, STEP):
        interruption = interrupt(operation, point)
        if interruption is None:
            assert point > 0
            return swallowed
        if not interruption.has_reached_caller:
            swallowed.append(interruption.place)
        try:
            check()
        except AssertionError as error:
            error.add_note(f"interrupted at {interruption.place}")
            raise
    raise AssertionError  # the count does not end


def check_order(cache: RingCache) -> None:
    """Check that each key has its value, that no lock is held and that no node is ejected."""
    values = cache.get_many(KEYS), [cache.get(key) for key in KEYS[:6]]
    for node in cache.client.nodes:
        check_node(node)
    assert values == (VALUES, [VALUES[key] for key in KEYS[:6]])
    context = cache.client.context
    assert not context.missed._lock.locked()
    assert not context.orphans._lock.locked()
    assert not cache.client.counters._lock.locked()


def check_node(node: Node) -> None:
    breaker = node.breaker
    assert breaker is not None
    assert not breaker._lock.locked()
    assert not breaker.is_open, breaker.state


def absent() -> Iterator[str]:
    return (f"absent-{number}" for number in count())


_absent = absent()
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
    assert interrupted_everywhere(lambda: OPERATIONS[name](cache), lambda: check_order(cache)) == []
    gc.collect()
    assert connections_of(services) == sum(len(node._pool._idle) for node in cache.client.nodes)


# Python ignores what is raised in the finalizer of a connection
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_handshake_leaves_no_connection(cache: RingCache, services: Services) -> None:
    """Also while redis-py connects, some of whose own code swallows any exception."""

    def connect_anew() -> None:
        cache.client.close()
        cache.get(KEYS[0])

    swallowed = interrupted_everywhere(connect_anew, lambda: check_order(cache))
    assert [place for place in swallowed if not place.startswith("redis/")] == []
    gc.collect()
    assert connections_of(services) == sum(len(node._pool._idle) for node in cache.client.nodes)
