"""The topology that a server of a cluster reports."""

from __future__ import annotations

from typing import Any

import pytest

from cachebackend.cluster.topology import (
    MAX_SHARDS,
    SHARDS,
    Server,
    Shard,
    Topology,
    empty_primaries,
    read_topology,
)
from cachebackend.effects import Reply
from cachebackend.errors import NodeReplyError, NodeUnavailableError, RingCacheError
from cachebackend.replies import fits

INFO = b"cluster_enabled:1\r\ncluster_state:ok\r\ncluster_current_epoch:7\r\n"


def same(host: str, port: int) -> tuple[str, int]:
    return host, port


def test_ranges_of_one_primary_are_one_shard() -> None:
    """With its replicas; a server that does not know its own host is at the host that was asked."""
    a, b = [b"10.0.0.1", 7000, b"a", []], [b"", 7001, b"b", [b"hostname", b"x"]]
    replies: list[Any] = [INFO, [[0, 5, a, b], [7, 9, a, b], [6, 6, [None, 7002, b"c"]]]]
    assert read_topology(replies, "10.0.0.9", same) == Topology(
        7,
        True,
        (
            Shard(Server("a", "10.0.0.1", 7000), (Server("b", "10.0.0.9", 7001),), ((0, 5), (7, 9))),
            Shard(Server("c", "10.0.0.9", 7002), (), ((6, 6),)),
        ),
    )


def test_a_server_without_a_hostname_is_at_its_ip() -> None:
    """If the cluster prefers hostnames: its host is "?" then, and several servers may have one port."""
    a, b = [b"a.test", 7000, b"a", [b"ip", b"10.0.0.1"]], [b"?", 7000, b"b", [b"ip", b"10.0.0.2"]]
    c, d = [b"?", 7000, b"c", 5], [b"", 7000, b"d", [b"ip", b"10.0.0.4"]]
    replies: list[Any] = [INFO, [[0, 5, a, b], [6, 9, c, d]]]
    shards = read_topology(replies, "asked", same).shards
    assert [(each.primary.host, each.replicas[0].host) for each in shards] == [
        ("a.test", "10.0.0.2"),
        ("asked", "asked"),
    ]


def test_addresses_are_translated() -> None:
    """As this process reaches them."""
    replies: list[Any] = [INFO, [[0, 5, [b"10.0.0.1", 7000, b"a"]]]]
    [shard] = read_topology(replies, "x", lambda host, port: (f"{host}.test", port + 1)).shards
    assert (shard.primary.host, shard.primary.port, shard.primary.name) == (
        "10.0.0.1.test",
        7001,
        "10.0.0.1.test:7001",
    )


def test_a_cluster_that_is_down_says_so() -> None:
    """Also if it does not say its epoch."""
    topology = read_topology([b"cluster_state:fail\r\n", []], "x", same)
    assert (topology.is_ok, topology.epoch, topology.shards) == (False, 0, ())


def test_a_server_without_cluster_mode_gets_an_error_of_its_own() -> None:
    """It says what to write instead."""
    error = NodeReplyError("ERR This instance has cluster support disabled")
    with pytest.raises(NodeUnavailableError, match="write redis:// instead"):
        read_topology([error, error], "x", same)


def test_another_error_is_raised() -> None:
    """For example of a user who may not ask."""
    with pytest.raises(RingCacheError, match="NOPERM"):
        read_topology([NodeReplyError("NOPERM"), []], "x", same)


def test_an_ipv6_address_has_brackets_in_a_name() -> None:
    """So the port can be told from the address."""
    assert Server("a", "::1", 7000).name == "[::1]:7000"


def test_primaries_without_slots_are_in_the_table_of_shards_only() -> None:
    """Replicas have none either, and those that have failed are left out.

    A server with TLS has another port for it; one behind a proxy that terminates TLS has not.
    """
    servers: list[list[Any]] = [
        [b"port", 1, b"endpoint", None, b"role", b"master", b"health", b"online"],
        [b"port", 2, b"endpoint", b"?", b"ip", b"10.0.0.2", b"role", b"master", b"health", b"loading"],
        [b"port", 3, b"endpoint", b"c.test", b"role", b"replica", b"health", b"online"],
        [b"port", 4, b"endpoint", b"d.test", b"role", b"master", b"health", b"fail"],
        [b"tls-port", 5, b"endpoint", b"e.test", b"role", b"master", b"health", b"online"],
    ]
    shards: list[Reply] = [[b"slots", [], b"nodes", servers], [b"slots", [0, 9], b"nodes", [servers[0]]]]
    assert fits(SHARDS, shards)
    assert not any(fits(SHARDS, [[b"slots", 1, b"nodes", each]]) for each in ([], [[b"port"]], [[1, 1]], 7))
    assert not any(fits(SHARDS, each) for each in (b"", [b""], [[b"slots"]], [[1, 1]], [[b"slots", []]]))

    def found(*, is_tls: bool) -> list[tuple[str, int]]:
        return empty_primaries(shards, "asked.test", lambda host, port: (host, port), is_tls=is_tls)

    assert found(is_tls=False) == [("asked.test", 1), ("10.0.0.2", 2)]
    assert found(is_tls=True) == [("asked.test", 1), ("10.0.0.2", 2), ("e.test", 5)]


def test_more_primaries_than_any_cluster_has_are_refused() -> None:
    """With slots, and without: each would become a node, and a probe of each a thread."""
    servers = [[b"h", 1 + number, b"%d" % number] for number in range(MAX_SHARDS + 1)]
    with pytest.raises(NodeUnavailableError, match="names more than 2,000 primaries"):
        read_topology([INFO, [[number, number, each] for number, each in enumerate(servers)]], "h", same)
    assert len(read_topology([INFO, [[0, 0, each] for each in servers[1:]]], "h", same).shards) == MAX_SHARDS
    flat = [[b"port", port, b"ip", host, b"role", b"master"] for host, port, _ in servers]
    with pytest.raises(NodeUnavailableError, match="names more than 2,000 primaries"):
        empty_primaries([[b"slots", [], b"nodes", flat]], "h", same, is_tls=False)


def test_more_slots_and_servers_than_any_cluster_has_are_refused() -> None:
    """16,000 ranges of all slots took ten seconds, in which no other thread ran."""
    server = [b"h", 1, b"a"]
    with pytest.raises(NodeUnavailableError, match="names two owners of one slot"):
        read_topology([INFO, [[0, 16_383, server], [5, 5, server]]], "h", same)
    with pytest.raises(NodeUnavailableError, match="names a shard of 2,001 servers"):
        read_topology([INFO, [[0, 9, *[server] * (MAX_SHARDS + 1)]]], "h", same)
    topology = read_topology([INFO, [[slot, slot, server] for slot in range(16_384)]], "h", same)
    assert not topology.unserved
