"""Which server's topology is used."""

from __future__ import annotations

import pytest

from cachebackend.cluster.reader import TopologyReader
from cachebackend.cluster.topology import Topology
from cachebackend.options import ClusterAddress
from tests.unit.cluster.shards import HIGH, LOW, A, B, C, D, E, topology

OLD = topology((A, [C], [LOW]), (B, [D], [HIGH]), epoch=1)
NEW = topology((C, [], [LOW]), (B, [D], [HIGH]), epoch=9)


class Answers(TopologyReader):
    """A reader without servers: each host has its answer."""

    def __init__(self, answers: dict[str, Topology | OSError]) -> None:
        super().__init__(
            ClusterAddress((("seed.test", 1),)), (0.1, 0.1), None, lambda host, port: (host, port)
        )
        self.answers, self.asked = answers, list[str]()

    def _ask(self, host: str, port: int) -> Topology:
        self.asked.append(host)
        answer = self.answers.get(host, ConnectionRefusedError("refused"))
        if isinstance(answer, OSError):
            raise answer
        return answer


def test_the_first_server_with_a_present_topology_is_enough() -> None:
    """The servers that failed are asked last, after those of the URL."""
    reader = Answers({"b.test": NEW})
    assert reader.read([A, B], [C], 5) is NEW
    assert reader.asked == ["a.test", "b.test"]


def test_an_old_topology_is_used_if_there_is_no_other_one() -> None:
    """A primary that is cut off from the others has one, and so has a cluster that was made again."""
    reader = Answers({"a.test": OLD, "c.test": NEW})
    assert reader.read([A], [C], 5) is NEW
    assert reader.asked == ["a.test", "seed.test", "c.test"]
    assert Answers({"a.test": OLD}).read([A], [C], 5) is OLD


def test_the_topology_of_another_cluster_is_the_last_choice() -> None:
    """A server has left for another cluster with its ID and its address; the others are still known."""
    other = topology((A, [], [LOW]), (E, [], [HIGH]), epoch=12)
    reader = Answers({"a.test": other, "b.test": NEW})
    assert reader.read([A, B], [], 5, {"a", "b", "c", "d"}) is NEW
    assert Answers({"a.test": other, "b.test": OLD}).read([A, B], [], 5, {"a", "b", "c", "d"}) is OLD
    assert Answers({"a.test": other}).read([A, B], [], 5, {"a", "b"}) is other
    assert Answers({"a.test": other, "b.test": NEW}).read([A, B], [], 5) is other


def test_the_error_names_the_first_server_and_its_reason() -> None:
    """The others mostly fail for the same one."""
    with pytest.raises(ConnectionError, match=r"no server of the cluster answers: a\.test:7000 refused"):
        Answers({}).read([A], [C], 0)
    with pytest.raises(ConnectionError, match="the cluster has no slots yet"):
        Answers({"a.test": topology()}).read([A], [], 0)
