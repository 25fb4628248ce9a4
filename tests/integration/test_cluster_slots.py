"""Slots of a real cluster that no server has: commands and page name them, and not something else."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import caches
from django.core.management import call_command
from django.db import DatabaseError
from django.test import override_settings

from cachebackend import protocol
from cachebackend.client import RingClient
from cachebackend.cluster import ShardNode
from cachebackend.monitoring import alias_figures, queue_figures
from cachebackend.monitoring.faults import alias_scope, node_scope
from cachebackend.monitoring.queue_nodes import unserved_parts
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.options import CLUSTER_PARTS, RingOptions
from cachebackend.protocol.missed_deletes import MissedKeys
from cachebackend.ring import cluster_slot
from cacheproject.cluster import Cluster
from cacheproject.services import Services
from tests.commands import report_of
from tests.integration import unserved_slots
from tests.node_settings import cluster_settings
from tests.waits import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_nodes")]


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[None]:
    """Return a list that grows by one with each call of a method."""
    calls, real = list[None](), getattr(owner, name)

    def count(*given: Any) -> Any:
        calls.append(None)
        return real(*given)

    monkeypatch.setattr(owner, name, count)
    return calls


@pytest.fixture
def unserved(cluster_services: Services, cluster: Cluster) -> Iterator[int]:
    """An alias and a queue on a cluster in which nobody has the slot of one part of the queue."""
    slot = cluster_slot(CLUSTER_PARTS[0].encode())
    block = settings.CACHES["default"] | {"LOCATION": cluster_services.ring_urls}
    queue = {"nodes": cluster.url, "partitions": 16, "durability": "memory"}
    with (
        cluster_settings(cluster, maxmemory_policy="noeviction"),
        override_settings(CACHES=settings.CACHES | {"default": block}, WRITE_BEHIND=queue),
    ):
        caches["default"].get("any")  # the process knows the slots of before
        with unserved_slots.unserved(cluster, slot):
            yield slot


def test_a_slot_that_no_server_has_is_a_fault_of_its_own(unserved: int) -> None:
    """Of the alias and of the queue; it is not counted as a slot of the server that had it."""
    figures = alias_figures("default")
    assert sum(node.slots or 0 for node in figures.nodes) == 16_383
    [fault] = [each for each in figures.faults if each.kind is FaultKind.SLOTS_UNSERVED]
    assert "1 slot of the cluster of 'default' is served by no server" in fault.message
    assert fault.scope == alias_scope("default")
    faults = queue_figures().faults
    kinds = {each.kind for each in faults} - {FaultKind.QUEUE_SETTINGS}
    assert kinds == {FaultKind.SLOTS_UNSERVED}
    [fault] = [each for each in faults if each.kind in kinds]
    assert "the cluster of write-behind" in fault.message
    [part] = unserved_parts()
    assert part.startswith(CLUSTER_PARTS[0])
    assert fault.scope == node_scope("WRITE_BEHIND", part)


def test_the_status_of_the_ring_says_so(unserved: int) -> None:
    """And exits with 1."""
    report: Any = report_of("ring", "status", code=1)
    assert not report["well"]
    assert "1 slot of the cluster of 'default'" in report["faults"][0]
    printed = StringIO()
    with pytest.raises(SystemExit):
        call_command("ring", "status", stdout=printed)
    assert "not well: 1 slot of the cluster of 'default' is served by no server" in printed.getvalue()


def test_a_cluster_that_does_not_answer_has_the_addresses_of_its_url() -> None:
    """The fault says which servers to start, and nothing of replicas that were not read."""
    urls = "redis+cluster://127.0.0.1:1,127.0.0.1:2"
    block = settings.CACHES["default"] | {"LOCATION": urls, "OPTIONS": {"wait_replicas": 1}}
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        [node] = alias_figures("default").nodes
        report: Any = report_of("ring", "doctor", code=1)
    assert node.address == "127.0.0.1:1,127.0.0.1:2"
    assert "Start the server at 127.0.0.1:1,127.0.0.1:2" in report["faults"][0]
    assert not any("replica" in fault for fault in report["faults"])


def test_the_address_of_a_shard_is_that_of_its_server(cluster_services: Services, cluster: Cluster) -> None:
    """So the fault of a shard that is down says which server to start."""
    del cluster
    block = settings.CACHES["default"] | {"LOCATION": cluster_services.ring_urls}
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        nodes = alias_figures("default").nodes
    assert len(nodes) == 3
    assert [node.address for node in nodes] == [node.name for node in nodes]


def test_the_figures_of_a_queue_need_no_more_rights_than_are_documented(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """A queue has no use for servers without slots, so its user need not be allowed ``CLUSTER SHARDS``."""
    queue = {"nodes": cluster.url, "partitions": 16, "durability": "memory"}
    for name in cluster.names:
        cluster.ask(name, "ACL", "SETUSER", "default", "-cluster|shards")
    try:
        with override_settings(WRITE_BEHIND=queue):
            queue_figures()
        refused = [entry for name in cluster.names for entry in cluster.ask(name, "ACL", "LOG")]
    finally:
        for name in cluster.names:
            cluster.ask(name, "ACL", "SETUSER", "default", "+cluster|shards")
            cluster.ask(name, "ACL", "LOG", "RESET")
    assert (refused, caplog.messages) == ([], [])


@pytest.mark.parametrize("slot", [0, cluster_slot(b"ringcache:confirm:0")])
def test_a_slot_that_no_server_has_keeps_no_change_and_no_clear_pending(
    cluster_services: Services, cluster: Cluster, slot: int
) -> None:
    """The servers, and their replicas, confirm with keys of other slots."""
    options = {"wait_replicas": 1}
    client = RingClient(RingOptions.read(cluster_services.ring_urls, options, "CACHES['default']"))
    client.set(b"any", "value", 60_000)  # the process knows the slots of before
    shards = [b"{%d}\xff" % each for each in range(30) if cluster_slot(b"%d" % each) != slot]
    with unserved_slots.unserved(cluster, slot):
        wait_until(lambda: (client.cluster.try_reload(), slot in client.ring.unserved)[1])  # type: ignore[union-attr]
        found = client.run(protocol.read_shards(client.context, shards))
        client.run(protocol.clear(client.context, b"none:*"))
        missed = [client.context.missed.count(node) for node in client.ring.nodes]
    assert (found, missed) == (({}, [], True), [0, 0, 0])
    client.close()


def test_a_delete_in_a_slot_that_no_server_has_is_tried_again_until_one_has_it(
    cluster_services: Services, cluster: Cluster
) -> None:
    """Its last server gets it back with its keys; the table is as before, and no command fails."""
    client = RingClient(RingOptions.read(cluster_services.ring_urls, {}, "CACHES['default']"))
    key = b"any"
    client.set(key, "old", 60_000)
    with unserved_slots.unserved(cluster, cluster_slot(key)):
        assert client.run(protocol.delete_many(client.context, [key])) == [key]
        wait_until(lambda: client.context.missed.postponed(client.ring.nodes))
    wait_until(lambda: not client.context.missed.postponed(client.ring.nodes))
    wait_until(lambda: client.context.missed.count(client.ring.owner(key)) == 0)
    assert client.get(key) is None
    client.close()


def test_deletes_in_a_slot_that_no_server_has_are_not_sent_meanwhile(
    cluster_services: Services, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt reads the topology only: thousands of deletes a second would load the servers."""
    monkeypatch.setattr("cachebackend.client.postponed.RETRY_SECONDS", 0.05)
    client = RingClient(RingOptions.read(cluster_services.ring_urls, {}, "CACHES['default']"))
    keys, slot = [b"{any}%d" % each for each in range(100)], cluster_slot(b"any")
    client.set(keys[0], "old", 60_000)
    assert client.cluster is not None
    read = count_calls(monkeypatch, client.cluster, "_reload")
    sent = count_calls(monkeypatch, ShardNode, "_before_replay")
    with unserved_slots.unserved(cluster, slot):
        client.run(protocol.delete_many(client.context, keys))
        wait_until(lambda: slot in client.ring.unserved and client.context.missed.has_postponed)
        wait_until(lambda: not any(client.context.missed.count(node) for node in client.ring.nodes))
        for node in client.ring.nodes:
            client.nodes[node].breaker.wait_for_probe(30.0)  # type: ignore[union-attr]
        before, reads = len(sent), len(read)
        wait_until(lambda: len(read) > reads + 5)
        assert len(sent) <= before + 1  # an attempt may have begun before the topology was read
        # Neither are they sent with the deletes of other keys
        other = client.nodes[client.ring.owner(keys[0])]
        numbers = client.context.missed.postponed(client.ring.nodes)
        other.request_replay()
        other.breaker.wait_for_probe(30.0)  # type: ignore[union-attr]
        assert client.context.missed.postponed(client.ring.nodes) == numbers
    wait_until(lambda: not client.context.missed.has_postponed)
    wait_until(lambda: client.context.missed.count(client.ring.owner(keys[0])) == 0)
    assert client.get(keys[0]) is None
    client.close()


def test_deletes_in_a_slot_that_no_server_has_do_not_eject_the_server_that_had_it(
    cluster_services: Services, cluster: Cluster
) -> None:
    """Nor does a database that cannot be read: the server serves the keys of its other slots."""

    class Unreadable:
        def keep(self, node: str, missed: MissedKeys) -> bool:
            return False

        def missed_by(self, node: str, limit: float) -> MissedKeys:
            raise DatabaseError

    client = RingClient(RingOptions.read(cluster_services.ring_urls, {}, "CACHES['default']"))
    client.set(b"any", "old", 60_000)
    node = client.nodes[client.ring.owner(b"any")]
    breaker = node.breaker
    assert breaker is not None
    with unserved_slots.unserved(cluster, cluster_slot(b"any")):
        client.run(protocol.delete_many(client.context, [b"any"]))
        wait_until(lambda: client.context.missed.postponed(client.ring.nodes))
        breaker.wait_for_probe(30.0)
        client.outbox = Unreadable()
        node.request_replay()
        breaker.wait_for_probe(30.0)
        assert (breaker.is_open, breaker.state.ejections) == (False, 0)
    client.close()
