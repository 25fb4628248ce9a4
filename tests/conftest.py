"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.cache import caches
from django.db import connection
from django.test import override_settings

from cachebackend.backend import RingCache, client_cache, test_prefix
from cachebackend.blocked_threads import kept
from cachebackend.counters import Counters
from cachebackend.effects import Command
from cachebackend.loader import running
from cachebackend.node import Node, blocking, multiplexed
from cachebackend.node.translate import pack_command
from cachebackend.options import NodeAddress, RingOptions, WriteBehindOptions
from cacheproject.services import Services
from tests.fix_services import ring_of_tests
from tests.second_models import forget_isolated_models

TESTS = Path(__file__).resolve().parent
#: The function itself, which ``prefix_of_settings`` replaces.
WITH_TEST_PREFIX = test_prefix.with_test_prefix
#: Folders whose tests take several seconds each.
SLOW = ("live", "project", "browser", "typing", "interleavings", "mutations")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under xdist, run the slow tests first: at the end of the run the workers share short ones."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] not in SLOW)


@pytest.fixture(scope="session", autouse=True)
def no_publisher() -> None:
    """Publish counters only where a test does it: the publisher thread has its own connections and counts."""
    Counters.on_thread = None


@pytest.fixture(scope="session", autouse=True)
def no_numbers_in_commands() -> Iterator[None]:
    """Refuse numbers in commands: hiredis crashes if a signal handler raises while it formats one."""

    def pack(command: Command) -> bytes:
        assert not any(isinstance(argument, int | float) for argument in command), command
        return pack_command(command)

    with pytest.MonkeyPatch.context() as patch:
        for module in (blocking, multiplexed):
            patch.setattr(module, "pack_command", pack)
        yield


@pytest.fixture(scope="session", autouse=True)
def unbatched_outbox() -> Iterator[None]:
    """Delete a confirmed outbox row after its write: no test finds those of another, or of the migrations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cachebackend.invalidation.confirmed_rows.BATCH_SECONDS", 0.0)
        yield


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test in an environment that it is not for, according to its markers."""
    if item.get_closest_marker("postgres") and connection.vendor != "postgresql":
        pytest.skip("needs Postgres")
    if item.get_closest_marker("other_than_sqlite") and connection.vendor == "sqlite":
        pytest.skip("needs locks, transactions or a schema editor that SQLite does not have")
    if item.get_closest_marker("postgres_or_sqlite") and connection.vendor == "mysql":
        pytest.skip("is about statements that MariaDB does not have")
    if item.get_closest_marker("own_connections") and _shares_connections():
        pytest.skip("is about connections that a thread keeps")
    if item.get_closest_marker("ring_of_nodes") and ring_of_tests() == "cluster":
        pytest.skip("is about single nodes, or about a ring that changes")


def _shares_connections() -> bool:
    """Return whether the next transaction of a thread may run in another session of the database."""
    return "pool" in connection.settings_dict["OPTIONS"] or "PGBOUNCER" in os.environ


@pytest.fixture(autouse=True)
def longer_timeouts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the timeouts of nodes to two seconds, unless the test sets them.

    On a busy machine a healthy node may need longer than the default timeout. Tests marked ``hangs``
    suspend a node on purpose, and use the default.
    """
    if request.node.get_closest_marker("hangs") or "unit" in request.path.parts:
        return
    longer = {"connect_timeout": 2.0, "socket_timeout": 2.0}
    read, read_queue = RingOptions.read, WriteBehindOptions.read

    def read_with_longer_timeouts(location: object, options: Any, path: str) -> RingOptions:
        return read(location, longer | options if isinstance(options, dict) else options, path)

    def read_queue_with_longer_timeouts(given: Any) -> WriteBehindOptions:
        return read_queue(longer | given if isinstance(given, dict) else given)

    monkeypatch.setattr(RingOptions, "read", read_with_longer_timeouts)
    monkeypatch.setattr(WriteBehindOptions, "read", read_queue_with_longer_timeouts)


@pytest.fixture(autouse=True)
def no_abandoned_loaders() -> None:
    """Forget the loaders that an earlier test has abandoned: a caller would ask whether they wait for it."""
    running.clear()
    kept.clear()


@pytest.fixture(autouse=True)
def models_of_a_test() -> Iterator[None]:
    """Forget the models that a test has made, and that are in no app, at its end.

    What is cached of a second model of a table that exists would be invalidated by other tests.
    """
    yield
    forget_isolated_models()


@contextmanager
def key_prefix(with_test_prefix: Callable[[str], str]) -> Iterator[None]:
    """Make the prefix of all keys by a function, for a block."""

    def set_prefixes() -> None:
        test_prefix.queue_options.cache_clear()
        for each in caches.all(initialized_only=True):
            if isinstance(each, RingCache):
                each.set_prefix()

    with pytest.MonkeyPatch.context() as patch:
        for module in (client_cache, test_prefix):
            patch.setattr(module, "with_test_prefix", with_test_prefix)
        set_prefixes()
        yield
    set_prefixes()


@pytest.fixture(scope="session", autouse=True)
def prefix_of_settings() -> Iterator[None]:
    """The keys have the prefix of the settings, so the same nodes own them in each process of a run."""
    with key_prefix(lambda prefix: prefix):
        yield


@pytest.fixture
def prefix_of_tests() -> Iterator[None]:
    """The keys have the prefix of tests, as in a process that a test starts on the test database."""
    with key_prefix(WITH_TEST_PREFIX):
        yield


@pytest.fixture
def ring_cache(empty_nodes: None) -> RingCache:
    """The default alias, on empty nodes."""
    cache = caches.create_connection("default")
    assert isinstance(cache, RingCache)
    return cache


@pytest.fixture
def open_alias() -> Iterator[Callable[..., RingCache]]:
    """Make the default alias with a LOCATION and options; its client is closed after the test."""
    made: list[RingCache] = []

    def make(location: Any, **options: Any) -> RingCache:
        block = {"BACKEND": "cachebackend.RingCache", "LOCATION": location, "OPTIONS": options}
        with override_settings(CACHES=settings.CACHES | {"default": block}):
            cache = caches.create_connection("default")
        assert isinstance(cache, RingCache)
        made.append(cache)
        return cache

    yield make
    for cache in made:
        cache.client.close()


@pytest.fixture(scope="session")
def compares_and_sets(services: Services) -> bool:
    """Return whether the nodes support ``SET … IFEQ``: Valkey from 8.1, Redis from 8.4."""
    for url in services.ring_servers:
        with redis.Redis.from_url(url.partition("?")[0]) as ring_node:
            try:
                ring_node.execute_command("SET", "compares-and-sets", "", "IFEQ", "")
            except redis.exceptions.MovedError:  # another server of the cluster has the key
                continue
            except redis.ResponseError:
                return False
            return True
    return False


@pytest.fixture(params=["native", "script"])
def fill(request: pytest.FixtureRequest, compares_and_sets: bool) -> str:
    """How a record is replaced: by the server's compare-and-set if it has one, and by script."""
    if request.param == "native" and not compares_and_sets:
        pytest.skip("these nodes have no SET … IFEQ")
    return str(request.param)


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """A node outside of any ring, for tests that step operations; on a unix socket, which is the fastest."""
    with Services(ring=0, queue=0, postgres=False) as own:
        path = own.folder / "stepped.sock"
        own.add_node("stepped", "--save", "", "--unixsocket", str(path))
        password = urlsplit(own.node_url("stepped")).password
        node = Node(NodeAddress("a", 1.0, f"unix://:{password}@{path}?db=0"), 1.0, 1.0)
        yield node
        node.close()


@pytest.fixture(scope="session")
def spare(node: Node) -> Iterator[Node]:
    """A second such node: another database of the same server."""
    spare = Node(NodeAddress("b", 1.0, node.address.url.replace("db=0", "db=1")), 1.0, 1.0)
    yield spare
    spare.close()


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return a function that calls a method of an object, or its async twin in an event loop."""
    if request.param == "sync":
        return lambda target, name, /, *args, **kwargs: getattr(target, name)(*args, **kwargs)
    return lambda target, name, /, *args, **kwargs: async_to_sync(getattr(target, f"a{name}"))(
        *args, **kwargs
    )
