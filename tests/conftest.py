"""What every test may ask for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync
from django.core.cache import caches
from django.db import connection

from cachebackend.backend import RingCache
from cachebackend.counters import Counters
from cachebackend.node import Node
from cachebackend.options import NodeAddress, RingOptions, WriteBehindOptions
from cacheproject.services import Services

TESTS = Path(__file__).resolve().parent
#: Folders whose tests take seconds each.
SLOW = ("live", "project", "browser", "typing", "interleavings", "mutations")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under xdist, run the slow tests first: at the end of the run the workers share short ones."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] not in SLOW)


@pytest.fixture(scope="session", autouse=True)
def no_folder() -> None:
    """Fold only where a test means to: a thread's own connections and counts would come in between."""
    Counters.on_thread = None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs Postgres, on another database."""
    if item.get_closest_marker("postgres") and connection.vendor != "postgresql":
        pytest.skip("needs Postgres")


@pytest.fixture(autouse=True)
def patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give nodes two seconds to answer, where the test does not say what they have.

    A busy machine may hold a healthy one up for longer than the default. Tests marked ``hangs``
    hold one up themselves, and wait for no longer than that.
    """
    if request.node.get_closest_marker("hangs") or "unit" in request.path.parts:
        return
    patient = {"connect_timeout": 2.0, "socket_timeout": 2.0}
    read, read_queue = RingOptions.read, WriteBehindOptions.read

    def read_patiently(location: object, options: Any, path: str) -> RingOptions:
        return read(location, patient | options if isinstance(options, dict) else options, path)

    def read_queue_patiently(given: Any) -> WriteBehindOptions:
        return read_queue(patient | given if isinstance(given, dict) else given)

    monkeypatch.setattr(RingOptions, "read", read_patiently)
    monkeypatch.setattr(WriteBehindOptions, "read", read_queue_patiently)


@pytest.fixture
def ring_cache(empty_nodes: None) -> RingCache:
    """The default alias, on empty nodes."""
    cache = caches.create_connection("default")
    assert isinstance(cache, RingCache)
    return cache


@pytest.fixture(scope="session")
def compares_and_sets(services: Services) -> bool:
    """Whether the run's nodes have ``SET … IFEQ``: Valkey from 8.1, Redis from 8.4."""
    with redis.Redis.from_url(services.ring_urls[0].partition("?")[0]) as ring_node:
        try:
            ring_node.execute_command("SET", "compares-and-sets", "", "IFEQ", "")
        except redis.ResponseError:
            return False
        return True


@pytest.fixture(params=["native", "script"])
def fill(request: pytest.FixtureRequest, compares_and_sets: bool) -> str:
    """How a record is swapped: by the server's compare-and-set where there is one, and by script."""
    if request.param == "native" and not compares_and_sets:
        pytest.skip("these nodes have no SET … IFEQ")
    return str(request.param)


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """A node that belongs to no ring, for what steps operations by hand; on a unix socket, the fastest."""
    with Services(ring=0, queue=0, postgres=False) as own:
        path = own.folder / "stepped.sock"
        own.add_node("stepped", "--save", "", "--unixsocket", str(path))
        node = Node(NodeAddress("a", 1.0, f"unix://{path}?db=0"), 1.0, 1.0)
        yield node
        node.close()


@pytest.fixture(scope="session")
def spare(node: Node) -> Iterator[Node]:
    """Another such node: another database of the same server."""
    spare = Node(NodeAddress("b", 1.0, node.address.url.replace("db=0", "db=1")), 1.0, 1.0)
    yield spare
    spare.close()


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Call a method of an object: itself, or its async twin in an event loop."""
    if request.param == "sync":
        return lambda target, name, *args, **kwargs: getattr(target, name)(*args, **kwargs)
    return lambda target, name, *args, **kwargs: async_to_sync(getattr(target, f"a{name}"))(*args, **kwargs)
