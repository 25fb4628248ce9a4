"""The cluster that tests use: formed by ``Services``, and changed step by step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from redis.exceptions import AskError, MovedError

from cacheproject.cluster import SLOTS, Cluster, bus_port
from cacheproject.services import Services


def another_primary(cluster: Cluster, slot: int) -> str:
    return next(name for name in cluster.primaries if name != cluster.primary_of(slot))


def test_three_primaries_serve_all_slots_and_each_has_a_replica(
    cluster_services: Services, cluster: Cluster
) -> None:
    """The services' URL names servers of the cluster, and its password is in no command line."""
    assert [len(cluster.replicas_of(name)) for name in cluster.primaries] == [1, 1, 1]
    assert {cluster.primary_of(slot) for slot in range(0, SLOTS, 97)} == set(cluster.primaries)
    [url] = cluster_services.ring_urls
    password = str(cluster.server("ring-a").password)
    assert url.startswith(f"redis+cluster://:{password}@127.0.0.1:{cluster.server('ring-a').port},127.0.0.1:")
    assert cluster_services.env() == {"RING_NODES": url}
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    assert not any(password in Path(f"/proc/{child}/cmdline").read_text() for child in children)


def test_a_value_is_stored_by_the_primary_of_its_slot_only(cluster: Cluster) -> None:
    """Another primary answers MOVED."""
    slot = cluster.slot_of("{a}key")
    cluster.ask(cluster.primary_of(slot), "SET", "{a}key", "1")
    with pytest.raises(MovedError):
        cluster.ask(another_primary(cluster, slot), "GET", "{a}key")


def test_a_slot_moves_in_steps(cluster: Cluster) -> None:
    """Between its begin and its end, the old owner answers ASK for the keys that have moved."""
    slot = cluster.slot_of("{a}")
    source, target = cluster.primary_of(slot), another_primary(cluster, slot)
    for name in ("{a}1", "{a}2"):
        cluster.ask(source, "SET", name, name)
    move = cluster.move_slot(slot, target)
    move.begin()
    assert sorted(move.keys) == [b"{a}1", b"{a}2"]
    move.move_key(b"{a}1")
    assert move.keys == [b"{a}2"]
    assert cluster.ask(source, "GET", "{a}2") == b"{a}2"
    with pytest.raises(AskError):
        cluster.ask(source, "GET", "{a}1")
    move.move_key(b"{a}2")
    move.end()
    assert cluster.primary_of(slot) == target
    assert cluster.ask(target, "GET", "{a}1") == b"{a}1"


def test_a_move_that_was_not_ended_is_closed_for_the_next_test(cluster: Cluster) -> None:
    """The slot stays with its owner, and no key remains."""
    slot = cluster.slot_of("{a}")
    owner, target = cluster.primary_of(slot), another_primary(cluster, slot)
    cluster.ask(owner, "SET", "{a}", "1")
    move = cluster.move_slot(slot, target)
    move.begin()
    move.move_key(b"{a}")
    cluster.heal()
    assert cluster.primary_of(slot) == owner
    assert cluster.ask(owner, "GET", "{a}") is None
    assert cluster.ask(target, "DBSIZE") == 0


def test_a_replica_is_promoted_while_its_primary_runs(cluster: Cluster) -> None:
    """The old primary becomes its replica, and no write is lost."""
    slot = cluster.slot_of("a")
    primary = cluster.primary_of(slot)
    [replica] = cluster.replicas_of(primary)
    cluster.ask(primary, "SET", "a", "1")
    cluster.failover(replica)
    assert cluster.primary_of(slot) == replica
    cluster.wait_until_ok()
    assert cluster.replicas_of(replica) == [primary]
    assert cluster.ask(replica, "GET", "a") == b"1"


def test_a_replica_is_promoted_when_its_primary_is_dead(cluster_services: Services, cluster: Cluster) -> None:
    """At once by command, or by an election; the old primary comes back as a replica."""
    slot = cluster.slot_of("a")
    for elected in (False, True):
        primary = cluster.primary_of(slot)
        [replica] = cluster.replicas_of(primary)
        cluster_services.kill(primary)
        if elected:
            cluster.wait_until_replaced(primary)
        else:
            cluster.failover(replica)
        assert cluster.primary_of(slot) == replica
        cluster_services.restart(primary)
        cluster.wait_until_ok()
        assert cluster.replicas_of(replica) == [primary]


def test_a_suspended_server_continues(cluster_services: Services, cluster: Cluster) -> None:
    """It keeps its connections."""
    [name, *_] = cluster.primaries
    cluster_services.stop(name)
    cluster_services.resume(name)
    cluster.wait_until_ok()
    assert name in cluster.primaries


def test_the_port_of_the_bus_is_a_port() -> None:
    """Also for the highest port."""
    assert (bus_port(7000), bus_port(65_535)) == (17_000, 55_535)
