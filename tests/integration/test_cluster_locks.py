"""Locks on a real cluster, and redis-py's client of a key: they need only the server that has the key."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis.exceptions

from cachebackend.client import RingClient
from cachebackend.options import RingOptions
from cacheproject.cluster import Cluster
from cacheproject.services import Services
from tests.integration.unserved_slots import unserved
from tests.waits import wait_until

NAMES = [b"lock:%d" % number for number in range(60)]


@pytest.fixture
def client(cluster_services: Services, cluster: Cluster) -> Iterator[RingClient]:
    del cluster
    client = RingClient(RingOptions.read(cluster_services.ring_urls, {}, "CACHES"))
    client.get(b"any")
    yield client
    client.close()


@pytest.fixture
def at(client: RingClient, cluster: Cluster) -> Callable[[str], bytes]:
    """Returns a name of a lock that a primary has."""
    return lambda primary: next(n for n in NAMES if cluster.primary_of(client.ring.slot_of(n)) == primary)


@contextmanager
def killed(services: Services, cluster: Cluster, name: str) -> Iterator[None]:
    services.kill(name)
    try:
        yield
    finally:
        cluster.wait_until_replaced(name)
        services.restart(name)
        cluster.wait_until_ok()


def lock(client: RingClient, name: bytes) -> redis.lock.Lock:
    return client.redis(name).lock(name, timeout=60)  # type: ignore[arg-type]  # bytes are allowed


def test_a_lock_needs_no_other_server(
    client: RingClient, cluster_services: Services, cluster: Cluster, at: Callable[[str], bytes]
) -> None:
    """Another primary is dead, and no server has the scripts of redis-py."""
    dead, alive = cluster.primaries[:2]
    held, other = at(alive), NAMES[-1] + b"{%s}" % at(alive)
    before = lock(client, held)
    assert before.acquire(blocking=False)
    for name in cluster.names:
        cluster.ask(name, "SCRIPT", "FLUSH")
    with killed(cluster_services, cluster, dead):
        before.release()
        after = lock(client, other)
        assert after.acquire(blocking=False)
        assert after.extend(5)
        assert not lock(client, other).acquire(blocking=False)
        after.release()
        assert cluster.ask(alive, "EXISTS", held) == cluster.ask(alive, "EXISTS", other) == 0


def test_a_lock_needs_no_other_slot(client: RingClient, cluster: Cluster) -> None:
    """Another slot has no owner; the cluster serves the others (cluster-require-full-coverage no)."""
    slot = client.ring.slot_of(NAMES[0])
    with unserved(cluster, slot):
        for name in NAMES[1:]:
            found = lock(client, name)
            assert found.acquire(blocking=False)
            found.release()
        with pytest.raises(redis.exceptions.ClusterDownError, match="not served"):
            lock(client, NAMES[0]).acquire(blocking=False)


def test_a_lock_does_not_depend_on_the_servers_in_the_url(
    cluster_services: Services, cluster: Cluster, at: Callable[[str], bytes]
) -> None:
    """The only one is dead; its replica has its slots, and the process knows the other servers."""
    primary = cluster.primaries[0]
    server = cluster.server(primary)
    url = f"redis+cluster://:{server.password}@127.0.0.1:{server.port}"
    client = RingClient(RingOptions.read(url, {}, "CACHES"))
    client.get(NAMES[0])
    name = at(primary)
    before = lock(client, name)
    with killed(cluster_services, cluster, primary):
        with pytest.raises(redis.exceptions.ConnectionError):
            before.acquire(blocking=False)
        cluster.wait_until_replaced(primary)

        def acquires() -> bool:
            try:
                return bool(before.acquire(blocking=False))
            except redis.exceptions.ConnectionError:
                return False

        wait_until(acquires)  # without any command of the cache
        before.release()
        assert lock(client, name).acquire(blocking=False)
    client.close()


def test_a_command_is_sent_once(
    client: RingClient, cluster_services: Services, cluster: Cluster, at: Callable[[str], bytes]
) -> None:
    """Also if its reply does not come in time: only the caller knows whether it may be sent twice."""
    primary = cluster.primaries[1]
    key = at(primary)
    with client.redis(key) as direct:
        assert direct.incr(key) == 1
        cluster_services.stop(primary)
        try:
            with pytest.raises(redis.exceptions.TimeoutError):
                direct.incr(key)
        finally:
            cluster_services.resume(primary)
    cluster.wait_until_ok()
    assert cluster.ask(primary, "GET", key) == b"2"


def test_a_lock_that_was_not_acquired_is_not_held(
    client: RingClient, cluster_services: Services, cluster: Cluster, at: Callable[[str], bytes]
) -> None:
    """A server that hangs is asked once; it gets no second command that finds the lock taken."""
    primary = cluster.primaries[1]
    found = lock(client, at(primary))
    cluster_services.stop(primary)
    try:
        with pytest.raises(redis.exceptions.TimeoutError):
            found.acquire(blocking=False)
    finally:
        cluster_services.resume(primary)
    cluster.wait_until_ok()
    assert cluster.ask(primary, "EXISTS", at(primary)) == 0


def test_a_lock_is_acquired_and_released_while_its_slot_moves(client: RingClient, cluster: Cluster) -> None:
    """At the new owner of the slot, which has it as soon as the old one lacks the name."""
    name = NAMES[0]
    slot = client.ring.slot_of(name)
    target = next(each for each in cluster.primaries if each != cluster.primary_of(slot))
    for each in cluster.names:
        cluster.ask(each, "SCRIPT", "FLUSH")
    move = cluster.move_slot(slot, target)
    move.begin()
    found = lock(client, name)
    assert found.acquire(blocking=False)
    assert move.keys == []
    assert not lock(client, name).acquire(blocking=False)
    found.release()
    assert found.acquire(blocking=False)
    move.end()
    assert found.extend(5)
    found.release()
    assert lock(client, name).acquire(blocking=False)


def test_a_client_leaves_no_connection(client: RingClient) -> None:
    """It is freed with the last reference to it, and not by a later run of the garbage collector."""
    lock(client, NAMES[0])  # redis-py keeps the client of the first lock of all
    gc.disable()
    try:
        with client.redis(NAMES[0]) as direct:
            direct.ping()
            pool = weakref.ref(direct.connection_pool)
        del direct
        assert pool() is None
    finally:
        gc.enable()


def test_commands_for_other_keys_are_redirected(client: RingClient, cluster: Cluster) -> None:
    """One by one; a pipeline goes to the owner of the key that the client is for."""
    with client.redis(NAMES[0]) as direct:
        for name in NAMES:
            direct.set(name, name)
        assert [direct.get(name) for name in NAMES] == NAMES
        with direct.pipeline() as pipeline:
            assert pipeline.get(NAMES[0]).ttl(NAMES[0]).execute() == [NAMES[0], -1]
    assert sum(cluster.ask(name, "DBSIZE") for name in cluster.primaries) == len(NAMES)
