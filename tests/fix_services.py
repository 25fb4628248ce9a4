"""The real servers that the tests run on, started once for each test process.

They start before Django reads its settings, because their ports are part of the settings. Under
``pytest -n 2`` each worker starts servers of its own, so that two workers never share a node, a
queue or a database; the process that hands out the tests starts none.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest

from cachebackend.node import Node
from cacheproject.cluster import Cluster
from cacheproject.server import Server
from cacheproject.services import Services
from tests.mariadb import mariadb_server, mariadb_url
from tests.pgbouncer import pgbouncer_binary, pgbouncer_server

TESTS = Path(__file__).resolve().parent
#: Folders whose tests need no server; a run of these alone starts none.
SERVERLESS = ("unit", "properties", "typing")
#: Fixtures that are servers, or need them.
NEED_SERVERS = frozenset(
    {"services", "own_services", "cluster_services", "empty_nodes", "node", "db", "transactional_db"}
)
#: Settings of nodes that tests change.
CHANGED_SETTINGS = ("maxmemory", "maxmemory-policy", "appendonly", "appendfsync")
#: Their values when a node was first emptied, by its URL.
FIRST_SETTINGS: dict[str, dict[str, str]] = {}
RUNNING: dict[str, Services] = {}
MORE_SERVERS: list[Server] = []


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, Any, Any]:
    """Start the servers and name them in the environment; a wrapper comes before pytest-django's hook.

    Tests that need no Postgres can run on MariaDB, which is started if ``MARIADB`` is set, and on SQLite, if
    ``DATABASE_URL`` names it.
    """
    if needs_servers(early_config.known_args_namespace):
        mariadb = bool(os.environ.get("MARIADB"))
        postgres = not mariadb and not os.environ.get("DATABASE_URL", "").startswith("sqlite:")
        RUNNING["services"] = services = Services(
            ring_of_tests(), queue=1, postgres=postgres, appendfsync="always"
        )
        os.environ.update(services.env())
        if mariadb:
            os.environ["DATABASE_URL"] = start_mariadb(services)
        elif os.environ.get("PGBOUNCER") and services.database_url:
            os.environ["DATABASE_URL"] = start_pgbouncer(services)
    return (yield)


def start_mariadb(services: Services) -> str:
    """Start MariaDB, and return its URL."""
    password = secrets.token_hex(16)
    server = mariadb_server(services.folder, password)
    start(server)
    return mariadb_url(server, password)


def ring_of_tests() -> int | Literal["cluster"]:
    """Return the ``ring`` of the services: three nodes, or a cluster if the environment has RING=cluster."""
    return "cluster" if os.environ.get("RING") == "cluster" else 3


def start_pgbouncer(services: Services) -> str:
    """Start pgbouncer in front of the database, and return its URL."""
    url = urlsplit(str(services.database_url))
    binary, password = str(pgbouncer_binary()), str(url.password)
    server = pgbouncer_server(binary, services.folder, url.port or 5432, password)
    os.environ["PGBOUNCER_DATABASE_PORT"] = str(url.port)
    start(server)
    return url._replace(netloc=f"{url.username}:{password}@{url.hostname}:{server.port}").geturl()


def start(server: Server) -> None:
    """Start a server that ends with this process."""
    MORE_SERVERS.append(server)
    server.start()
    server.wait_until_ready()


def needs_servers(given: Any) -> bool:
    """Return whether this process runs a test that needs a server, according to its command line."""
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    if given.collectonly or (getattr(given, "numprocesses", None) and not is_worker):
        return False
    named = [Path(path.partition("::")[0]).resolve() for path in given.file_or_dir]
    serverless = [TESTS / folder for folder in SERVERLESS]
    return not named or not all(any(path.is_relative_to(each) for each in serverless) for path in named)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a server to a test in a folder that needs none."""
    folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
    requested = NEED_SERVERS.intersection(getattr(item, "fixturenames", ()))
    if folder in SERVERLESS and (requested or item.get_closest_marker("django_db")):
        pytest.fail(f"tests/{folder} needs no server, but the test asks for {', '.join(sorted(requested))}")


def pytest_unconfigure() -> None:
    """End the servers."""
    for server in MORE_SERVERS:
        server.end()
    if "services" in RUNNING:
        RUNNING.pop("services").close()


@pytest.fixture(scope="session")
def services() -> Services:
    """The servers of the run; a test that kills one starts it again."""
    return RUNNING["services"]


@pytest.fixture(scope="session")
def cluster_services() -> Iterator[Services]:
    """A cluster of three primaries and three replicas; it starts with the first test that needs it."""
    with Services(ring="cluster", queue=0, postgres=False) as services:
        yield services


@pytest.fixture
def cluster(cluster_services: Services) -> Cluster:
    """The cluster, complete and empty. A test that kills or suspends a server undoes that at its end."""
    assert cluster_services.cluster is not None
    cluster_services.cluster.heal()
    return cluster_services.cluster


@pytest.fixture(params=["ring", "cluster"])
def each_ring(request: pytest.FixtureRequest) -> Iterator[None]:
    """The default alias on the ring of the run, and on a cluster."""
    from django.conf import settings
    from django.test import override_settings

    if request.param == "ring":
        yield
        return
    if ring_of_tests() == "cluster":
        pytest.skip("the ring of the run is a cluster")
    request.getfixturevalue("cluster")
    urls = request.getfixturevalue("cluster_services").ring_urls
    block = settings.CACHES["default"] | {"LOCATION": urls}
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        yield


@pytest.fixture(scope="session")
def new_node(services: Services) -> Iterator[str]:
    """The URL of a second queue node with an append-only file."""
    settings = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
    services.add_node("queue-new", *settings)
    yield services.node_url("queue-new")
    services.kill("queue-new")


@pytest.fixture
def empty_nodes(services: Services) -> Iterator[None]:
    """Empty ring and queue nodes, and counters that begin at zero."""
    from django.core.signals import setting_changed

    def forget_clients() -> None:
        # Django's handler forgets the cache objects, ours forgets their clients
        for setting in ("CACHES", "WRITE_BEHIND"):
            setting_changed.send(sender=None, setting=setting, value=None, enter=True)

    forget_clients()
    if services.cluster is not None:
        services.cluster.heal()  # a test may have killed or suspended a primary
    for url in (*(() if services.cluster else services.ring_urls), *services.queue_urls):
        flush(url)
    yield
    forget_clients()


def flush(url: str) -> None:
    """Empty a node, without redis-py, because its handshake takes longer than the commands.

    Raises:
        AssertionError: A test has changed a setting of the node and has not restored it.
    """
    address = urlsplit(url)
    commands = f"AUTH {address.password}\r\nFLUSHALL\r\nCONFIG GET {' '.join(CHANGED_SETTINGS)}\r\n"
    with (
        socket.create_connection((address.hostname, address.port), 10) as node,
        node.makefile("rb") as replies,
    ):
        node.sendall(commands.encode())
        answers = [replies.readline() for _ in range(2)]
        # Of the array of strings, each with its length before it, every second one is a value
        lines = [replies.readline() for _ in range(1 + 4 * len(CHANGED_SETTINGS))]
    assert answers == [b"+OK\r\n"] * 2, answers
    texts = [line.decode().strip() for line in lines[2::2]]
    values = dict(zip(texts[::2], texts[1::2], strict=True))  # Redis returns them in any order
    assert values == FIRST_SETTINGS.setdefault(url, values), "a test before this one has changed settings"


def restart_queue(services: Services) -> None:
    """Restart the queue node, which this process uses again at once."""
    from cachebackend.writebehind.queue import monitoring_queue, project_queue, syncing_queue

    services.restart("queue-a")
    close_breakers([*project_queue().nodes, *monitoring_queue().nodes, *syncing_queue().nodes])


def close_breakers(nodes: Iterable[Node]) -> None:
    """Let this process use nodes again that answer again, without a probe."""
    for node in nodes:
        if node.breaker is not None:
            node.breaker.close()


def connections_of(services: Services) -> int:
    """Return the number of ringcache connections to all ring nodes."""
    import redis

    total = 0
    for url in services.ring_servers:
        with redis.Redis.from_url(url.partition("?")[0]) as node:
            total += sum(client["name"] == "ringcache" for client in node.client_list())
    return total
