"""The table of a cluster as it changes, and where redirected commands go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.cluster import Cluster, ShardNode
from cachebackend.cluster.topology import Server, Shard, Topology
from cachebackend.effects import Command, Reply
from cachebackend.errors import NodeUnavailableError, RedirectedError
from cachebackend.node import Node
from cachebackend.node.breaker import Breaker
from cachebackend.options import ClusterAddress
from cachebackend.ring import CLUSTER_SLOTS, cluster_slot

A, B, C, D, E = (Server(name, f"{name}.test", 7000) for name in "abcde")
HALF = CLUSTER_SLOTS // 2
LOW, HIGH = (0, HALF - 1), (HALF, CLUSTER_SLOTS - 1)
GET, SET = (b"GET", b"bar"), (b"SET", b"bar", b"1")
MOVED_TO_B = RedirectedError.read("MOVED 5061 b.test:7000")
ASK_B = RedirectedError.read("ASK 5061 b.test:7000")


def topology(*shards: tuple[Server, Sequence[Server], Sequence[tuple[int, int]]], epoch: int = 1) -> Topology:
    return Topology(epoch, True, tuple(Shard(p, tuple(r), tuple(slots)) for p, r, slots in shards))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Two shards: A with its replica C has the low slots, B with its replica D the high ones."""
    cluster = Cluster(ClusterAddress((("seed.test", 7000),)), (0.1, 0.1), SYSTEM_CLOCK)
    monkeypatch.setattr(ShardNode, "_start_probe", lambda self: None)
    monkeypatch.setattr(cluster, "reload_soon", lambda: None)

    def prepare(_: int, node: ShardNode) -> None:
        node.breaker = Breaker(node.name, SYSTEM_CLOCK)

    prepare(0, cluster.nodes[0])
    cluster.on_node = prepare
    cluster._apply(topology((A, [C], [LOW]), (B, [D], [HIGH])))
    return cluster


def names(cluster: Cluster) -> list[str]:
    return [node.name for node in cluster.nodes]


def held(cluster: Cluster) -> list[bool]:
    return [node.breaker is not None and node.breaker.is_open for node in cluster.nodes]


def test_the_first_topology_names_the_shards(cluster: Cluster) -> None:
    """The node that stood for the cluster is the first shard; none is ejected."""
    assert names(cluster) == ["a.test:7000", "b.test:7000"]
    assert (cluster.ring.shares(), held(cluster)) == ([HALF, HALF], [False, False])
    assert cluster.ring.names == ("a.test:7000", "b.test:7000")


def test_a_promoted_replica_is_the_same_shard(cluster: Cluster) -> None:
    """It is ejected until it has got the deletes that the old primary missed."""
    cluster._apply(topology((B, [D], [HIGH]), (C, [], [LOW])))
    assert names(cluster) == ["c.test:7000", "b.test:7000"]
    assert (cluster.ring.owner_of_slot(0), held(cluster)) == (0, [True, False])
    breaker = cluster.nodes[0].breaker
    assert breaker is not None
    assert "has taken over from a.test:7000" in breaker.state.error


def test_a_new_shard_gets_the_next_index(cluster: Cluster) -> None:
    """One that was a replica before is a new shard, too, while its former primary is still one."""
    cluster._apply(
        topology((E, [], [(0, 9)]), (C, [], [(10, 19)]), (A, [], [(20, HALF - 1)]), (B, [], [HIGH]))
    )
    assert names(cluster) == ["a.test:7000", "b.test:7000", "e.test:7000", "c.test:7000"]
    assert [cluster.ring.owner_of_slot(slot) for slot in (0, 10, 20, HALF)] == [2, 3, 0, 1]
    assert held(cluster) == [False] * 4


def test_a_shard_that_lost_its_slots_keeps_its_index(cluster: Cluster) -> None:
    """It is not a node of the ring any more."""
    cluster._apply(topology((B, [D], [LOW, HIGH])))
    assert (cluster.ring.nodes, len(cluster.nodes)) == ([1], 2)


def test_slots_that_nobody_owns_stay_with_the_last_owner(cluster: Cluster) -> None:
    """The server says that the slot is not served."""
    cluster._apply(topology((A, [], [(0, 9)]), (B, [], [HIGH])))
    assert cluster.ring.owner_of_slot(100) == 0


def test_missed_deletes_go_with_the_slots(cluster: Cluster) -> None:
    """The new owner is ejected until it has got them; it is asked before the table changes."""
    seen: list[Any] = []

    def rehome(owner: Callable[[bytes], int], moves: Collection[tuple[int, int]]) -> set[int]:
        seen.append((owner(b"bar"), sorted(moves), cluster.ring.owner(b"bar")))
        return {1}

    cluster.rehome = rehome
    cluster._apply(topology((A, [C], [LOW]), (B, [D], [HIGH])))
    assert seen == []  # no slot has moved
    cluster._apply(topology((B, [D], [LOW, HIGH])))
    assert cluster_slot(b"bar") < HALF
    assert (seen, held(cluster)) == ([(1, [(0, 1)], 0)], [False, True])


class Answers:
    """Stands for the servers: what each node is sent, and what it answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *replies: list[Reply]) -> None:
        self.sent: list[tuple[str, list[Command]]] = []
        left, sent = iter(replies), self.sent

        def answer(node: Node, commands: Sequence[Command]) -> list[Reply]:
            sent.append((node.name, list(commands)))
            return next(left)

        class Received:
            def __init__(self, replies: list[Reply]) -> None:
                self._replies = replies

            def receive(self) -> list[Reply]:
                return self._replies

        async def submit(node: Node, commands: Sequence[Command]) -> list[Reply]:
            return answer(node, commands)

        monkeypatch.setattr(Node, "send", lambda node, commands: Received(answer(node, commands)))
        monkeypatch.setattr(Node, "submit", submit)


def follow(cluster: Cluster, replies: list[Reply], *, is_async: bool = False) -> list[Reply]:
    commands = [GET, SET, (b"PING",)][: len(replies)]
    if is_async:
        return asyncio.run(cluster.follow_async(cluster.nodes[0], commands, replies))
    return cluster.follow(cluster.nodes[0], commands, replies)


@pytest.mark.parametrize("is_async", [False, True])
def test_only_what_was_moved_is_sent_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    """Together; the slot belongs to the other shard from now on."""
    answers = Answers(monkeypatch, [b"1", b"OK"])
    assert follow(cluster, [MOVED_TO_B, MOVED_TO_B, b"PONG"], is_async=is_async) == [b"1", b"OK", b"PONG"]
    assert answers.sent == [("b.test:7000", [GET, SET])]
    assert cluster.ring.owner(b"bar") == 1


@pytest.mark.parametrize("is_async", [False, True])
def test_what_is_being_moved_is_asked_for(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    """Each command comes after ASKING; the slot stays with its owner."""
    answers = Answers(monkeypatch, [b"OK", b"1", b"OK", b"OK"])
    assert follow(cluster, [ASK_B, ASK_B], is_async=is_async) == [b"1", b"OK"]
    assert answers.sent == [("b.test:7000", [(b"ASKING",), GET, (b"ASKING",), SET])]
    assert cluster.ring.owner(b"bar") == 0


def test_servers_that_disagree_are_asked_a_few_times(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the reply is an error that ejects no node."""
    answers = Answers(monkeypatch, *[[MOVED_TO_B]] * 5)
    [reply] = follow(cluster, [MOVED_TO_B])
    assert isinstance(reply, NodeUnavailableError)
    assert ("redirected a command 5 times" in str(reply), reply.ejects, len(answers.sent)) == (True, False, 5)


def test_an_unknown_server_is_looked_for(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The topology is read at once; a server that it does not name gets no command."""

    def reload() -> None:
        cluster._apply(topology((A, [C], [LOW]), (B, [D], [(HALF, HALF)]), (E, [], [(HALF + 1, HIGH[1])])))

    monkeypatch.setattr(cluster, "reload", reload)
    answers = Answers(monkeypatch, [b"1"])
    unknown: list[Reply] = [RedirectedError.read(f"MOVED 5061 {name}.test:7000") for name in "ef"]
    first, second = follow(cluster, unknown)
    assert (first, answers.sent) == (b"1", [("e.test:7000", [GET])])
    assert isinstance(second, NodeUnavailableError)


def test_a_redirection_without_a_host_means_the_host_that_was_asked(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a server answers that does not know its own host."""
    cluster._apply(topology((A, [C], [LOW]), (Server("b", "a.test", 7001), [D], [HIGH])))
    answers = Answers(monkeypatch, [b"1"])
    assert follow(cluster, [RedirectedError.read("MOVED 5061 :7001")]) == [b"1"]
    assert answers.sent == [("a.test:7001", [GET])]


def test_a_cluster_without_a_server_that_answers_is_an_error(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the first server and why it did not answer."""

    def ask(host: str, port: int) -> Topology:
        raise ConnectionRefusedError(111, f"refused by {host}:{port}")

    monkeypatch.setattr(cluster, "_ask", ask)
    with pytest.raises(ConnectionError, match=r"no server of the cluster answers: a\.test:7000"):
        cluster.reload()


def test_a_topology_that_is_older_than_the_last_one_is_the_last_choice(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A primary that is cut off from the others still has the old one."""
    old = topology((A, [C], [LOW]), (B, [D], [HIGH]), epoch=1)
    new = topology((C, [], [LOW]), (B, [D], [HIGH]), epoch=9)
    cluster._epoch = 5
    tables = {"a.test": old, "b.test": new}
    monkeypatch.setattr(cluster, "_ask", lambda host, port: tables[host])
    cluster.reload()
    assert names(cluster) == ["c.test:7000", "b.test:7000"]
    monkeypatch.setattr(cluster, "_ask", lambda host, port: old)
    cluster.reload()
    assert names(cluster) == ["a.test:7000", "b.test:7000"]
