"""Waiting for replicas without a key to delete."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.client import RingClient
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.options import RingOptions
from cachebackend.protocol import read_shards
from cachebackend.protocol.ring.confirmations import confirm_requests
from cachebackend.ring import cluster_slot
from tests.unit.cluster.shards import HIGH, LOW, A, B, topology
from tests.unit.protocol.stepping import context_of, step


def client_of(**options: Any) -> RingClient:
    client = RingClient(RingOptions.read("redis+cluster://h:7000", options, "CACHES"))
    assert client.cluster is not None
    client.cluster._apply(topology((A, [], [LOW]), (B, [], [HIGH])))
    return client


def test_each_server_deletes_a_key_of_a_slot_of_its_own() -> None:
    """Another one would be redirected, and the server would have nothing to wait for."""
    client = client_of(wait_replicas=1)
    requests = confirm_requests(client.context, [(node, client.context.served_slot(node)) for node in (0, 1)])
    assert [client.ring.owner(command[3]) for _, command in requests] == [0, 1]  # type: ignore[arg-type]
    assert [node for node, _ in requests] == [0, 1]


def test_a_server_of_one_slot_is_asked_too() -> None:
    """However few keys it may have."""
    client = client_of(wait_replicas=1)
    assert client.cluster is not None
    client.cluster._apply(topology((A, [], [(0, 16_382)]), (B, [], [(16_383, 16_383)])))
    [(node, command)] = confirm_requests(client.context, [(1, client.context.served_slot(1))])
    assert (node, cluster_slot(bytes(command[3]))) == (1, 16_383)  # type: ignore[arg-type]


def test_a_slot_that_no_server_has_is_not_chosen() -> None:
    """The server that had it would refuse each attempt to confirm."""
    client = client_of(wait_replicas=1)
    assert client.cluster is not None
    client.cluster._apply(topology((A, [], [(1, 1)]), (B, [], [HIGH])))
    assert (client.ring.owner_of_slot(0), client.context.served_slot(0)) == (0, 1)


def test_a_server_without_slots_is_left_out() -> None:
    """It redirects every command, also if it never had a slot."""
    client = client_of(wait_replicas=1)
    assert client.cluster is not None
    client.cluster._apply(topology((A, [], [LOW, HIGH])))
    client.ring.empty = (2,)  # type: ignore[union-attr]
    served = [(node, client.context.served_slot(node)) for node in (0, 1, 2)]
    assert served[1:] == [(1, None), (2, None)]
    assert [node for node, _ in confirm_requests(client.context, served)] == [0]


def test_another_slot_is_chosen_each_time() -> None:
    """One of them may be moving: then the server redirects the command, and has not confirmed."""
    client = client_of(wait_replicas=1)
    assert len({client.context.served_slot(0) for _ in range(20)}) > 1


def test_each_shard_of_a_registry_is_confirmed_by_the_server_that_has_it() -> None:
    """The slot of one may have moved to a server that was replaced since."""
    client = client_of(wait_replicas=1)
    shards = [b"s", b"t", b"u"]
    _, [requests] = step(read_shards(client.context, shards), [[]] * 3 + [0] * 3)
    slots = [cluster_slot(command[1]) for _, command in requests[3:]]
    assert slots == [cluster_slot(shard) for shard in shards]


def test_a_shard_whose_slot_moves_is_read_again_and_confirmed_by_both_servers() -> None:
    """By the one that was asked with a key of another slot, and by the one to which the slot moves."""
    client = client_of(wait_replicas=1)
    redirected = NodeUnavailableError("redirected")
    again = [[b"id"], 0, 0]
    found, [_, requests] = step(read_shards(client.context, [b"s"]), [[], redirected], again)
    assert found == ({b"s": {b"id"}}, [], True)
    slots = [cluster_slot(command[1]) for _, command in requests]
    assert slots[2] == slots[0] != slots[1]


def test_a_plain_node_beside_a_cluster_is_asked_for_a_key_of_any_slot() -> None:
    """It has all of them."""
    client = client_of(leaving=["redis://plain:6379"])
    assert client.context.served_slot(0) is not None


def test_nothing_is_sent_unless_deletes_wait_for_replicas() -> None:
    """Each change of rows would cost a command for each server."""
    assert confirm_requests(client_of().context, [(0, 0), (1, 9000)]) == []


def test_the_reason_why_a_registry_is_not_confirmed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Such as a missing right: each change of rows would stay in the outbox without a word."""
    refused = NodeReplyError("NOPERM No permissions to access a key")
    reading = read_shards(context_of("a", wait_replicas=1), [b"s"])
    found, requests = step(reading, [[b"id"], refused], [[b"id"], 0, refused])
    assert list(map(len, requests)) == [2, 3]
    assert found == ({b"s": {b"id"}}, [], False)
    [record] = caplog.records
    assert record.event == "registry_unconfirmed"  # type: ignore[attr-defined]
    assert str(refused) in record.getMessage()
