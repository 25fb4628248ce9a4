"""Which copies may be used, by the tracking connections that are open."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cachebackend.client import trackings
from cachebackend.client.trackings import Trackings
from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.near.cache import NearCache
from cachebackend.node import Node
from cachebackend.options import NodeAddress
from cachebackend.options.ring import NearOptions

NAMES = ["a", "b"]


class FakeTracking:
    """Stands for a tracking connection; the test says when it is open."""

    made: list[FakeTracking]

    def __init__(
        self, handshake: object, on_change: object, on_up: Callable[[], None], on_down: Callable[[], None]
    ) -> None:
        del handshake, on_change
        self.on_up, self.on_down, self.starts = on_up, on_down, 0
        self.made.append(self)

    def start(self) -> None:
        self.starts += 1

    def close(self) -> None:
        self.on_down()


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> NearCache:
    FakeTracking.made = []
    monkeypatch.setattr(trackings, "Tracking", FakeTracking)
    return NearCache(NearOptions(), SYSTEM_CLOCK)


def nodes() -> list[Node]:
    return [Node(NodeAddress(name, 1.0, f"redis://{name}.test"), 0.1, 0.1) for name in NAMES]


def is_stored(near: NearCache, node: int) -> bool:
    near.keep(near.begin(b"k", node), b"record", 1, 60.0)
    stored = near.has_copy(b"k")
    near.drop((b"k",))
    return stored


def test_copies_of_a_plain_node_depend_on_its_connection(near: NearCache) -> None:
    """Another node's connection does not matter."""
    used = Trackings(near, nodes(), lambda: range(2), is_cluster=False)
    used.start()
    used.start()
    first, second = FakeTracking.made
    assert (first.starts, second.starts) == (1, 1)
    first.on_up()
    assert (is_stored(near, 0), is_stored(near, 1)) == (True, False)


def test_copies_of_a_cluster_depend_on_all_connections(near: NearCache) -> None:
    """A key may have been read from another shard than the one that was asked."""
    used = Trackings(near, nodes(), lambda: range(2), is_cluster=True)
    used.start()
    first, second = FakeTracking.made
    first.on_up()
    assert not is_stored(near, 0)
    second.on_up()
    assert (is_stored(near, 0), is_stored(near, 1)) == (True, True)
    first.on_down()
    assert not is_stored(near, 1)


def test_a_shard_that_was_added_is_tracked_with_the_next_read(near: NearCache) -> None:
    """Until then no copies are stored."""
    of_cluster = nodes()
    used = Trackings(near, of_cluster, lambda: range(len(of_cluster)), is_cluster=True)
    used.start()
    for tracking in FakeTracking.made:
        tracking.on_up()
    of_cluster.append(Node(NodeAddress("c", 1.0, "redis://c.test"), 0.1, 0.1))
    used.node_moved(2)
    used.update()  # slots have moved to it
    assert not is_stored(near, 0)
    used.start()
    FakeTracking.made[2].on_up()
    assert is_stored(near, 0)


def test_a_shard_that_has_moved_is_tracked_again(near: NearCache) -> None:
    """The connection to its old primary is closed."""
    used = Trackings(near, nodes(), lambda: range(2), is_cluster=True)
    used.start()
    for tracking in FakeTracking.made:
        tracking.on_up()
    used.node_moved(0)
    assert not is_stored(near, 0)
    used.start()
    assert [tracking.starts for tracking in FakeTracking.made] == [2, 2]
    FakeTracking.made[0].on_up()
    assert is_stored(near, 0)


def test_a_closed_or_forked_client_starts_again(near: NearCache) -> None:
    """With new connections."""
    used = Trackings(near, nodes(), lambda: range(2), is_cluster=False)
    used.start()
    FakeTracking.made[0].on_up()
    used.close()
    assert not is_stored(near, 0)
    used.start()
    used.after_fork()
    used.start()
    assert [tracking.starts for tracking in FakeTracking.made] == [1] * 6
