"""Nodes of a ring that keep files: a node that starts with old keys undoes deletes."""

from __future__ import annotations

import redis

from cachebackend import RingCache
from cachebackend.monitoring.setup import ring_faults
from cacheproject.services import Services
from tests.waits import wait_until

SAVES = "saves its keys to a file"
HAS_LOADED = "has started with the keys of a file"


def faults_of(url: str) -> list[str]:
    """Return what ``ring doctor`` finds about the files of a node."""
    cache = RingCache([url], {"OPTIONS": {}})
    try:
        return [fault for fault in ring_faults("default", cache.client) if " file" in fault]
    finally:
        cache.client.close()


def test_a_node_that_keeps_a_file_is_a_fault(own_services: Services) -> None:
    """Nothing is said about a node without files, nor about servers that send them to each other."""
    port = own_services.add_node("keeper", "--save", "")
    url = own_services.node_url("keeper")
    assert faults_of(url) == []
    with redis.Redis.from_url(url.partition("?")[0]) as admin:
        admin.set("k", "v")
        admin.save()
        [fault] = faults_of(url)
        assert "node 'keeper'" in fault
        assert SAVES in fault
        own_services.restart("keeper")
        [fault] = faults_of(url)
        assert HAS_LOADED in fault
        admin.flushall()
        own_services.add_node("replica", "--save", "", "--replicaof", f"127.0.0.1 {port}")
        with redis.Redis.from_url(own_services.node_url("replica").partition("?")[0]) as replica:
            wait_until(lambda: replica.info("replication")["master_link_status"] == "up")
            assert faults_of(url) == []
            replica.replicaof("NO", "ONE")
            assert faults_of(own_services.node_url("replica")) == []
