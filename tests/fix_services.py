"""The real servers that the tests run on, started once a run, before Django reads its settings."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from cacheproject.services import Services

RUNNING: dict[str, Services] = {}


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests() -> Generator[None, Any, Any]:
    """Start the servers and name them in the environment; a wrapper comes before pytest-django's hook.

    A ``DATABASE_URL`` of SQLite is left as it is: what needs no Postgres may be tried on that.
    """
    postgres = not os.environ.get("DATABASE_URL", "").startswith("sqlite:")
    RUNNING["services"] = services = Services(ring=3, queue=1, postgres=postgres, appendfsync="always")
    os.environ.update(services.env())
    return (yield)


def pytest_unconfigure() -> None:
    """End the servers."""
    if "services" in RUNNING:
        RUNNING.pop("services").close()


@pytest.fixture(scope="session")
def services() -> Services:
    """The servers of the run; a test that kills one starts it again."""
    return RUNNING["services"]


@pytest.fixture
def empty_nodes(services: Services) -> Iterator[None]:
    """Ring and queue nodes that hold nothing, and counters at nought."""
    import redis
    from django.core.signals import setting_changed

    def forget_clients() -> None:
        # Django's own handler forgets the cache objects, ours the clients behind them
        setting_changed.send(sender=None, setting="CACHES", value=None, enter=True)

    forget_clients()
    for url in services.ring_urls + services.queue_urls:
        with redis.Redis.from_url(url.partition("?")[0]) as node:
            node.flushall()
    yield
    forget_clients()


def restart_queue(services: Services) -> None:
    """Restart the queue node, and have this process find it at once and not by its next probe."""
    from cachebackend.writebehind.queue import monitoring_queue, project_queue

    services.restart("queue-a")
    for node in (*project_queue().nodes, *monitoring_queue().nodes):
        if node.breaker is not None:
            node.breaker.close()


def connections_of(services: Services) -> int:
    """Return how many of our connections the ring nodes count."""
    import redis

    total = 0
    for url in services.ring_urls:
        with redis.Redis.from_url(url.partition("?")[0]) as node:
            total += sum(client["name"] == "ringcache" for client in node.client_list())
    return total
