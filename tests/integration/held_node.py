"""A node that is held still: fixtures and steps of the tests in which one fails and comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from cachebackend import RingCache
from cachebackend.errors import NodeUnavailableError
from cachebackend.node import Node
from cachebackend.node.breaker import EJECTED, FAILURES, UP
from cacheproject.services import Services

NODE = "ring-a"


class Probes:
    """Probes that wait until the test runs them, each in its own thread."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def run(self) -> None:
        while self.waiting:
            thread = threading.Thread(target=self.waiting.pop())
            thread.start()
            thread.join()


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Probes:
    """The probes of all nodes."""
    probes = Probes()
    monkeypatch.setattr(Node, "_spawn", lambda _, probe: probes.waiting.append(probe))
    return probes


@pytest.fixture
def cache(ring_cache: RingCache) -> RingCache:
    """The default alias with 30 keys."""
    ring_cache.set_many({f"k{n}": n for n in range(30)}, None)
    return ring_cache


@pytest.fixture
def dead(cache: RingCache, services: Services) -> Iterator[list[str]]:
    """The keys of a node that is stopped: it keeps its memory and does not answer."""
    keys = [f"k{n}" for n in range(30) if owner(cache, f"k{n}").name == NODE]
    services.stop(NODE)
    yield keys
    services.resume(NODE)


def owner(cache: RingCache, key: str) -> Node:
    return cache.client.nodes[cache.client.ring.owner(cache.key_bytes(key))]


def node_of(cache: RingCache) -> Node:
    return next(node for node in cache.client.nodes if node.name == NODE)


def state(cache: RingCache) -> str:
    breaker = node_of(cache).breaker
    assert breaker is not None
    return breaker.state.state


def eject(cache: RingCache, key: str) -> None:
    """Have the node ejected: one call waits for it in vain, and the other failures are only reported."""
    cache.get(key)
    breaker = node_of(cache).breaker
    assert breaker is not None
    for _ in range(FAILURES - 1):
        if state(cache) == UP:  # a thread of the process may have met the node, too
            breaker.failed(NodeUnavailableError("node 'ring-a' is held still by a test"))
    assert state(cache) == EJECTED


def come_back(cache: RingCache, services: Services, probes: Probes) -> None:
    """Make the node answer again, and run its probe."""
    services.resume(NODE)
    breaker = node_of(cache).breaker
    assert breaker is not None
    breaker._probe_at = 0.0
    cache.get_many([f"k{n}" for n in range(30)])
    probes.run()
