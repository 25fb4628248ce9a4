"""Servers and topologies for tests."""

from __future__ import annotations

from collections.abc import Sequence

from cachebackend.cluster.topology import Server, Shard, Topology
from cachebackend.effects import Reply
from cachebackend.node import Exchange
from cachebackend.ring import CLUSTER_SLOTS

A, B, C, D, E = (Server(name, f"{name}.test", 7000) for name in "abcde")
HALF = CLUSTER_SLOTS // 2
LOW, HIGH = (0, HALF - 1), (HALF, CLUSTER_SLOTS - 1)


def topology(*shards: tuple[Server, Sequence[Server], Sequence[tuple[int, int]]], epoch: int = 1) -> Topology:
    return Topology(epoch, True, tuple(Shard(p, tuple(r), tuple(slots)) for p, r, slots in shards))


class NothingMissed:
    """The replay of a node that has missed nothing."""

    def replay_all(self, exchange: Exchange) -> None:
        """Replay nothing."""

    replay_own = replay_rest = replay_all

    def is_complete(self) -> bool:
        return True

    def has_orphans(self) -> bool:
        return False


class Answered:
    """Commands whose replies are known."""

    def __init__(self, replies: list[Reply]) -> None:
        self._replies = replies

    def receive(self) -> list[Reply]:
        return self._replies

    def abandon(self) -> None:
        """Nothing is under way."""
