"""Waiting for replicas without a key to delete."""

from __future__ import annotations

from cachebackend.client import RingClient
from cachebackend.options import RingOptions
from cachebackend.protocol.ring.confirmations import confirm_requests
from tests.unit.cluster.shards import HIGH, LOW, A, B, topology


def client_of(**options: int) -> RingClient:
    client = RingClient(RingOptions.read("redis+cluster://h:7000", options, "CACHES"))
    assert client.cluster is not None
    client.cluster._apply(topology((A, [], [LOW]), (B, [], [HIGH])))
    return client


def test_each_server_deletes_a_key_of_its_own() -> None:
    """Another one would be redirected, and the server would have nothing to wait for."""
    client = client_of(wait_replicas=1)
    requests = confirm_requests(client.context, [0, 1])
    assert [client.ring.owner(command[3]) for _, command in requests] == [0, 1]  # type: ignore[arg-type]
    assert [node for node, _ in requests] == [0, 1]


def test_a_server_without_slots_is_left_out() -> None:
    """It redirects every command."""
    client = client_of(wait_replicas=1)
    assert client.cluster is not None
    client.cluster._apply(topology((A, [], [LOW, HIGH])))
    assert [node for node, _ in confirm_requests(client.context, [0, 1])] == [0]


def test_nothing_is_sent_unless_deletes_wait_for_replicas() -> None:
    """Each change of rows would cost a command for each server."""
    assert confirm_requests(client_of().context, [0, 1]) == []
