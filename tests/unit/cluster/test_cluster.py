"""The table of a cluster as it changes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.cluster import Cluster, ShardNode
from cachebackend.cluster.topology import Topology
from cachebackend.errors import NodeUnavailableError, RedirectedError
from cachebackend.node import Node
from cachebackend.options import ClusterAddress
from cachebackend.ring import CLUSTER_SLOTS, cluster_slot
from tests.unit.cluster.shards import HALF, HIGH, LOW, A, Answered, B, C, D, E, topology


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
    assert cluster.nodes[0].handshake.name == "c.test:7000"  # it names the server that refuses a command


def test_a_new_shard_gets_the_next_index(cluster: Cluster) -> None:
    """One that was a replica before is a new shard, too. Both get first what any process has missed."""
    cluster._apply(
        topology((E, [], [(0, 9)]), (C, [], [(10, 19)]), (A, [], [(20, HALF - 1)]), (B, [], [HIGH]))
    )
    assert names(cluster) == ["a.test:7000", "b.test:7000", "e.test:7000", "c.test:7000"]
    assert [cluster.ring.owner_of_slot(slot) for slot in (0, 10, 20, HALF)] == [2, 3, 0, 1]
    assert held(cluster) == [False, False, True, True]


def test_a_shard_that_lost_its_slots_keeps_its_index(cluster: Cluster) -> None:
    """It is not a node of the ring any more."""
    cluster._apply(topology((B, [D], [LOW, HIGH])))
    assert (cluster.ring.nodes, len(cluster.nodes)) == ([1], 2)


def test_a_new_shard_takes_the_index_of_one_without_slots(cluster: Cluster) -> None:
    """So a cluster whose servers are replaced one by one keeps its number. It gets first what it missed."""
    cluster._apply(topology((B, [D], [LOW, HIGH])))
    cluster._apply(topology((B, [D], [HIGH]), (E, [], [LOW])))
    assert names(cluster) == ["e.test:7000", "b.test:7000"]
    assert (cluster.ring.shares(), held(cluster)) == ([HALF, HALF], [True, False])
    cluster._apply(topology((B, [D], [HIGH]), (E, [], [(0, 9)]), (A, [], [(10, HALF - 1)])))
    assert names(cluster) == ["e.test:7000", "b.test:7000", "a.test:7000"]
    assert held(cluster) == [True, False, True]


def test_a_server_that_imports_its_first_slots_takes_the_index_of_one_without_slots(
    cluster: Cluster,
) -> None:
    """It is known by a redirection before it is in the topology. It gets first what it missed."""
    cluster._apply(topology((B, [D], [LOW, HIGH])))
    asked = RedirectedError.read("ASK 5061 e.test:7000")
    assert cluster.add_target(cluster.shards[1], asked) == 0
    assert (names(cluster), held(cluster)) == (["e.test:7000", "b.test:7000"], [True, False])
    cluster._apply(topology((B, [D], [HIGH]), (E, [], [LOW])))
    assert (names(cluster), cluster.ring.nodes) == (["e.test:7000", "b.test:7000"], [0, 1])


def test_a_server_that_imports_its_first_slots_keeps_its_index(cluster: Cluster) -> None:
    """It serves already, without having got what others missed, so no other server may take its place."""
    asked = RedirectedError.read("ASK 5061 f.test:7000")
    assert cluster.add_target(cluster.shards[0], asked) == 2
    cluster._apply(topology((A, [C], [(0, 9)]), (B, [D], [HIGH]), (E, [], [(10, HALF - 1)])))
    assert names(cluster) == ["a.test:7000", "b.test:7000", "f.test:7000", "e.test:7000"]
    assert held(cluster) == [False, False, False, True]


def test_a_server_that_was_asked_and_gets_all_slots_of_another_may_be_a_promoted_replica(
    cluster: Cluster,
) -> None:
    """It may have become a replica meanwhile: it gets first what others have missed."""
    cluster.add_target(cluster.shards[0], RedirectedError.read("ASK 5061 e.test:7000"))
    cluster._apply(topology((E, [A], [LOW]), (B, [D], [HIGH])))
    assert (cluster.ring.nodes, held(cluster)) == ([1, 2], [False, False, True])


def test_a_server_that_was_asked_and_has_a_slot_now_is_read_after_the_table_says_so(cluster: Cluster) -> None:
    """It may have become a replica meanwhile, and was promoted."""
    cluster.add_target(cluster.shards[0], RedirectedError.read("ASK 5061 e.test:7000"))
    moved = RedirectedError.read("MOVED 5061 e.test:7000")
    assert cluster.target(cluster.shards[0], moved) is None
    cluster._apply(topology((A, [C], [(0, 5060)]), (B, [D], [HIGH]), (E, [], [(5061, HALF - 1)])))
    assert (cluster.target(cluster.shards[0], moved), held(cluster)) == (2, [False, False, False])


def test_a_server_that_has_lost_its_slots_and_has_one_now_is_read_after_the_table_says_so(
    cluster: Cluster,
) -> None:
    """It may have become a replica meanwhile, and was promoted."""
    cluster._apply(topology((B, [D], [LOW, HIGH])))
    moved = RedirectedError.read("MOVED 0 a.test:7000")
    assert cluster.target(cluster.shards[1], moved) is None
    cluster._apply(topology((A, [B], [LOW, HIGH])))
    assert (cluster.target(cluster.shards[1], moved), held(cluster)) == (0, [True, False])


@pytest.mark.parametrize("is_redirected", [False, True])
def test_a_server_that_has_other_slots_than_before_may_be_a_promoted_replica(
    cluster: Cluster, is_redirected: bool
) -> None:
    """It had some when the table was read, and may have become a replica since; as far as that is known."""
    cluster._apply(topology((A, [C], [LOW]), (B, [D], [(HALF, HIGH[1] - 1)]), (E, [], [(HIGH[1], HIGH[1])])))
    breaker = cluster.nodes[2].breaker
    assert breaker is not None
    breaker.close()
    if is_redirected:
        cluster.note_moved(7, 2)
    cluster._apply(topology((E, [A], [LOW]), (B, [D], [HIGH])))
    assert held(cluster) == [False, False, True]


def test_a_server_whose_own_slot_no_server_has_may_be_a_promoted_replica(cluster: Cluster) -> None:
    """It was lost and forgotten, and came back as a replica; the slot that it had says nothing."""
    last = HIGH[1]
    cluster._apply(topology((A, [C], [LOW]), (B, [D], [(HALF, last - 1)]), (E, [], [(last, last)])))
    breaker = cluster.nodes[2].breaker
    assert breaker is not None
    breaker.close()
    cluster._apply(topology((A, [C], [LOW]), (B, [D], [(HALF, last - 1)])))
    assert cluster.target(cluster.shards[0], RedirectedError.read("MOVED 0 e.test:7000")) is None
    cluster._apply(topology((E, [A], [LOW]), (B, [D], [(HALF, last - 1)])))
    assert held(cluster) == [False, False, True]


def test_a_server_that_was_asked_may_be_a_promoted_replica_although_a_slot_is_unserved(
    cluster: Cluster,
) -> None:
    """The slot was the former primary's: it seems to have slots left."""
    cluster.add_target(cluster.shards[0], RedirectedError.read("ASK 5061 e.test:7000"))
    cluster._apply(topology((A, [C], [(1, LOW[1])]), (B, [D], [HIGH])))
    cluster._apply(topology((E, [A], [(1, LOW[1])]), (B, [D], [HIGH])))
    assert held(cluster) == [False, False, True]


def test_a_server_that_gets_all_slots_of_another_beside_its_own_is_not_ejected(cluster: Cluster) -> None:
    """It was no replica meanwhile."""
    cluster._apply(topology((B, [D], [LOW, HIGH])))
    assert held(cluster) == [False, False]


@pytest.mark.parametrize("kind", ["MOVED", "ASK"])
def test_a_server_that_was_reset_is_asked_as_the_one_that_it_is_now(cluster: Cluster, kind: str) -> None:
    """It has another ID at the same address; its former shard is not ejected until it has got deletes."""
    cluster._apply(topology((A, [C], [LOW]), (B._replace(id="reset"), [], [HIGH])))
    assert held(cluster) == [False, False, True]
    assert cluster.target(cluster.shards[0], RedirectedError.read(f"{kind} 9000 {B.name}")) == 2


def test_another_server_in_the_place_of_one_that_imports_gets_first_what_it_missed(cluster: Cluster) -> None:
    """The former primary A may have been a replica meanwhile."""
    cluster._apply(topology((B, [D], [LOW, HIGH])))
    assert cluster.add_target(cluster.shards[1], RedirectedError.read("ASK 5061 e.test:7000")) == 0
    breaker = cluster.shards[0].breaker
    assert breaker is not None
    breaker.close()
    cluster._apply(topology((B, [D], [HIGH]), (A, [], [LOW])))
    assert (names(cluster), held(cluster)) == (["a.test:7000", "b.test:7000"], [True, False])


def test_a_shard_may_be_added_while_a_thread_looks_at_the_others(cluster: Cluster) -> None:
    """A redirection to a new server adds one; another thread looks for the server of its own redirection."""
    seen = []
    for index in cluster.shards:
        cluster._members.add()
        seen.append(index)
    assert (seen, len(cluster.shards)) == ([0, 1], 4)


def test_two_clusters_of_a_client_add_nodes_at_the_same_time() -> None:
    """While a ring changes from a cluster to another one."""
    nodes: list[Node] = []
    first, second = (
        Cluster(ClusterAddress(((host, 1),)), (0.1, 0.1), SYSTEM_CLOCK, nodes=nodes) for host in "ab"
    )
    new_node = first._members._new_node

    def while_another_is_added() -> ShardNode:
        second._members.add()
        return new_node()

    first._members._new_node = while_another_is_added
    first._members.add()
    for cluster in (first, second):
        assert all(nodes[index] is shard for index, shard in cluster.shards.items())
    assert sorted([*first.shards, *second.shards]) == [0, 1, 2, 3]


def test_a_server_without_slots_is_asked_last_for_the_topology(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may not be a server of the cluster any more, or may not run at all."""
    cluster._apply(topology((B, [D], [LOW, HIGH])))
    asked: list[str] = []

    def ask(host: str, port: int) -> Topology:
        del port
        asked.append(host)
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(cluster._reader, "_ask", ask)
    cluster.try_reload()
    assert asked == ["b.test", "d.test", "seed.test", "a.test"]


def test_slots_that_nobody_owns_stay_with_the_last_owner(cluster: Cluster) -> None:
    """The server says that the slot is not served. They are not counted as its slots."""
    cluster._apply(topology((A, [], [(0, 9)]), (B, [], [HIGH])))
    assert cluster.ring.owner_of_slot(100) == 0
    assert (cluster.ring.shares(), len(cluster.ring.unserved)) == ([10, HALF], HALF - 10)
    cluster.note_moved(100, 1)
    assert (cluster.ring.shares(), len(cluster.ring.unserved)) == ([10, HALF + 1], HALF - 11)
    cluster._apply(topology((A, [], [LOW]), (B, [], [HIGH])))
    assert (cluster.ring.shares(), len(cluster.ring.unserved)) == ([HALF, HALF], 0)


def test_a_cluster_that_was_reset_has_no_slots(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its servers answer, so a report of them must not say that they have the slots of before."""

    def ask(*_: object) -> Topology:
        return topology()

    monkeypatch.setattr(cluster._reader, "_ask", ask)
    with pytest.raises(ConnectionError, match="has no slots"):
        cluster.reload()
    assert (cluster.ring.shares(), cluster.ring.owner_of_slot(HALF)) == ([0, 0], 1)
    assert len(cluster.ring.unserved) == CLUSTER_SLOTS
    cluster._apply(topology((A, [C], [LOW]), (B, [D], [HIGH])))
    assert (cluster.ring.shares(), cluster.ring.unserved) == ([HALF, HALF], frozenset())


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


def test_nothing_is_logged_while_the_table_is_locked(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that uses the cache may be redirected, and would wait for the lock for ever."""
    cluster.rehome = lambda owner, moves: {1}
    cluster._apply(topology((C, [A], [LOW]), (D, [B], [HIGH]), epoch=2))
    cluster.note_moved(0, 1)
    breakers = [shard.breaker for shard in cluster.shards.values() if shard.breaker is not None]
    assert [breaker.is_open for breaker in breakers] == [True, True]
    assert caplog.messages == []
    for breaker in breakers:
        breaker.probe_begun()
    assert len(caplog.messages) == 2


def test_a_topology_that_is_older_than_the_last_one_is_the_last_choice(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A primary that is cut off from the others still has the old one."""
    old = topology((A, [C], [LOW]), (B, [D], [HIGH]), epoch=1)
    new = topology((C, [], [LOW]), (B, [D], [HIGH]), epoch=9)
    cluster._epoch = 5
    tables = {"a.test": old, "b.test": new}
    monkeypatch.setattr(cluster._reader, "_ask", lambda host, port: tables[host])
    cluster.reload()
    assert names(cluster) == ["c.test:7000", "b.test:7000"]
    monkeypatch.setattr(cluster._reader, "_ask", lambda host, port: old)
    cluster.reload()
    assert names(cluster) == ["a.test:7000", "b.test:7000"]


def test_a_redirection_that_names_no_host_is_to_the_owner_of_the_slot(cluster: Cluster) -> None:
    """A cluster that prefers hostnames has none for the server; the servers may have one port."""
    moved = RedirectedError.read("MOVED 5061 ?:7000")
    assert cluster.target(cluster.shards[0], moved) is None  # the table is read first
    cluster._apply(topology((A, [C], [(0, 5060), (5062, HALF - 1)]), (B, [D], [(5061, 5061), HIGH])))
    assert cluster.target(cluster.shards[0], moved) == 1


def test_a_key_that_has_moved_to_a_server_without_a_host_is_at_the_only_one_with_the_port(
    cluster: Cluster,
) -> None:
    """If several have it, nothing is known; no server is added then."""
    ask = RedirectedError.read("ASK 5061 ?:7000")
    assert cluster.target(cluster.shards[0], ask) == 1
    cluster._apply(topology((A, [C], [(0, 9)]), (B, [D], [HIGH]), (E, [], [(10, HALF - 1)])))
    assert cluster.target(cluster.shards[0], ask) is None
    assert cluster.add_target(cluster.shards[0], ask) is None


def test_a_former_primary_that_is_promoted_elsewhere_is_asked_after_the_table_says_so(
    cluster: Cluster,
) -> None:
    """It has the values of another shard, and may lack deletes that other processes have stored for it."""
    cluster._apply(topology((B, [A, D], [LOW, HIGH]), epoch=2))
    moved = RedirectedError.read("MOVED 5061 a.test:7000")
    assert cluster.target(cluster.shards[1], moved) is None
    cluster._apply(topology((A, [D], [LOW, HIGH]), epoch=3))
    assert cluster.target(cluster.shards[1], moved) == 0
    assert held(cluster)[0]


def test_servers_without_slots_have_a_node_each(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them had slots before; the new one may not take its place."""
    cluster._apply(topology((B, [D], [LOW, HIGH])))
    servers = [[b"port", each.port, b"endpoint", each.host.encode(), b"role", b"master"] for each in (A, E)]
    shards = [[b"slots", [], b"nodes", [each]] for each in servers]
    monkeypatch.setattr(ShardNode, "call", lambda node, command: shards)
    for _ in range(2):
        cluster.find_empty()
        assert {names(cluster)[index] for index in cluster.ring.empty} == {A.name, E.name}


def test_a_server_that_was_reset_is_not_without_slots_as_long_as_the_table_has_some(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so of itself; the others have not noticed yet, and the status does not say both."""
    server = [b"port", A.port, b"endpoint", A.host.encode(), b"role", b"master"]
    shards = [[b"slots", [], b"nodes", [server]]]
    monkeypatch.setattr(ShardNode, "send", lambda node, commands: Answered([shards]))
    cluster.find_empty()
    assert cluster.ring.empty == ()


def test_a_server_that_does_not_answer_is_not_waited_for_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the nodes are looked for that a clear must visit: only a replay to a new owner is waited for."""
    probed: list[str] = []
    monkeypatch.setattr(ShardNode, "probe_now", lambda node: probed.append(node.name))

    def fail(node: Node, _: Any) -> Answered:
        if node is cluster.nodes[0]:
            assert node.breaker is not None
            node.breaker.failed(NodeUnavailableError("timed out"), at_once=True)
        return Answered([NodeUnavailableError("timed out")])

    monkeypatch.setattr(ShardNode, "send", fail)
    monkeypatch.setattr(cluster, "try_reload", lambda: cluster.shards[1].hold("promoted"))
    cluster._refresh()
    assert (probed, held(cluster)) == (["b.test:7000"], [True, True])
