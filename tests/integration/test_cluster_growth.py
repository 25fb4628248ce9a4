"""A server that joins a real cluster, and leaves it again: its keys are cleared with all others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from django.conf import settings
from django.test import override_settings

from cachebackend import protocol
from cachebackend.client import RingClient
from cachebackend.invalidation import clears, deletes
from cachebackend.monitoring.ring import alias_figures
from cachebackend.monitoring.runbook import FaultKind
from cachebackend.options import RingOptions
from cachebackend.protocol.missed_deletes import MissedKeys
from cacheproject.cluster import CLUSTER_SETTINGS, Cluster, bus_port
from cacheproject.services import Services
from tests.commands import report_of
from tests.waits import wait_until

MINUTE_MS = 60_000
KEYS = [b"{tag}:%d" % number for number in range(6)]


@dataclass
class Grown:
    """A cluster of its own, and a further server in it, which has no slots at first."""

    services: Services
    cluster: Cluster
    password: str
    port: int

    def ask(self, *command: Any) -> Any:
        """Ask the further server."""
        with redis.Redis(port=self.port, password=self.password) as server:
            return server.execute_command(*command)

    def client(self) -> RingClient:
        """Return a new client."""
        return RingClient(RingOptions.read(self.cluster.url, {}, "CACHES['default']"))

    @property
    def identity(self) -> str:
        """The name that the cluster has for the further server."""
        return str(self.ask("CLUSTER", "MYID").decode())

    def is_joined(self) -> bool:
        """Whether all servers know each other."""
        if b"cluster_state:ok" not in self.ask("CLUSTER", "INFO"):
            return False
        return all(
            any(self.identity in line and "handshake" not in line for line in self.nodes_of(name))
            for name in self.cluster.names
        )

    def nodes_of(self, name: str) -> list[str]:
        """Return the servers that one server knows."""
        return list(self.cluster.ask(name, "CLUSTER", "NODES").decode().splitlines())

    def begin(self, slot: int) -> str:
        """Begin to move a slot to the further server; return the name of the old one."""
        source = self.cluster.primary_of(slot)
        self.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", self.cluster.identity(source))
        self.cluster.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.identity)
        return source

    def move_keys(self, source: str, *keys: bytes) -> None:
        """Move keys of that slot to the further server."""
        address = "127.0.0.1", self.port, "", 0, 10_000
        self.cluster.ask(source, "MIGRATE", *address, "AUTH", self.password, "KEYS", *keys)


@pytest.fixture
def grown() -> Iterator[Grown]:
    with Services(ring="cluster", queue=0, postgres=False) as services:
        cluster = services.cluster
        assert cluster is not None
        port = services.add_node("further", *CLUSTER_SETTINGS)
        first = cluster.server(cluster.names[0])
        grown = Grown(services, cluster, str(first.password), port)
        grown.ask("CLUSTER", "MEET", "127.0.0.1", first.port, bus_port(first.port))
        wait_until(grown.is_joined)
        yield grown


def test_keys_of_the_first_slot_of_a_new_server_are_listed_and_cleared(grown: Grown) -> None:
    """While the slot moves: the server is in no table of slots."""
    client, other = grown.client(), grown.client()
    for key in KEYS:
        client.set(key, "old", MINUTE_MS)
    source = grown.begin(client.ring.slot_of(KEYS[0]))
    grown.move_keys(source, *KEYS[:3])
    scan, found = protocol.KeyScan(other.context, b"*", 10), []
    while not scan.is_over:
        found += other.run(scan.page())
    assert sorted(found) == KEYS
    assert other.run(protocol.clear(other.context, b"*")) == len(KEYS)
    assert [client.get(key) for key in KEYS] == [None] * len(KEYS)
    client.close()
    other.close()


@pytest.mark.django_db(transaction=True)
def test_the_status_of_the_ring_and_the_page_name_a_server_without_slots(grown: Grown) -> None:
    """No key belongs to it, but keys of its first slot may be there already."""
    block = settings.CACHES["default"] | {"LOCATION": [grown.cluster.url]}
    with override_settings(CACHES=settings.CACHES | {"default": block}):
        report = report_of("ring", "status", "--alias", "default", code=None)
        figures = alias_figures("default")
    assert report["without_slots"] == {"default": [f"127.0.0.1:{grown.port}"]}
    [note] = [each for each in figures.faults if each.kind is FaultKind.SERVER_WITHOUT_SLOTS]
    assert note.is_note
    assert f"127.0.0.1:{grown.port}, a server of the cluster of 'default', has no slots" in note.message


def test_a_server_that_has_left_keeps_no_clear_pending(grown: Grown, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has used it knows it still; the relay would clear the others again and again."""
    client = grown.client()
    client.set(KEYS[0], "value", MINUTE_MS)
    slot = client.ring.slot_of(KEYS[0])
    source = grown.begin(slot)
    grown.move_keys(source, KEYS[0])
    assert client.get(KEYS[0]) == "value"
    cache = SimpleNamespace(client=client, pattern=b"*")
    monkeypatch.setattr(deletes, "ring_cache_of", lambda _: cache)
    endpoint = client.nodes[client.ring.owner(KEYS[0])].endpoint
    assert clears.clear_node("default", endpoint)
    assert client.get(KEYS[0]) is None
    identity = grown.identity
    grown.cluster.ask(source, "CLUSTER", "SETSLOT", slot, "STABLE")
    grown.services.kill("further")
    for name in grown.cluster.names:
        grown.cluster.ask(name, "CLUSTER", "FORGET", identity)
    assert clears.clear_node("default", endpoint)
    client.close()


class OtherProcess:
    """An outbox with the delete of a key that another process has missed."""

    def __init__(self, key: bytes) -> None:
        self._missed = MissedKeys((key,))

    def keep(self, node: str, missed: MissedKeys) -> bool:
        """Store nothing."""
        del node, missed
        return True

    def missed_by(self, node: str, limit: float) -> MissedKeys:
        """Return the key."""
        del node, limit
        return self._missed


def test_a_server_that_was_empty_and_became_a_replica_is_not_read_before_its_replay(grown: Grown) -> None:
    """This process has seen it without slots; when it is promoted it may lack what others have missed."""
    client, key = grown.client(), KEYS[0]
    assert client.set(key, "old", MINUTE_MS)
    client.run(protocol.clear(client.context, b"nothing"))
    assert client.ring.empty
    source = grown.cluster.primary_of(client.ring.slot_of(key))
    grown.ask("CLUSTER", "REPLICATE", grown.cluster.identity(source))
    wait_until(lambda: grown.ask("DBSIZE") == 1)
    client.outbox = OtherProcess(key)
    grown.services.kill(source)
    wait_until(lambda: client.get(key) is None and client.nodes[client.ring.owner(key)].is_ejected)
    grown.ask("CLUSTER", "FAILOVER", "TAKEOVER")
    seen = set()

    def is_served() -> bool:
        seen.add(client.get(key))
        owner = client.nodes[client.ring.owner(key)]
        return owner.name.endswith(f":{grown.port}") and not owner.is_ejected

    wait_until(is_served)
    assert seen | {client.get(key)} == {None}
    client.close()
