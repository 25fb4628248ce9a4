"""A shard as a node: its present primary, and commands of several keys."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.cluster.shard import ShardNode
from cachebackend.cluster.topology import Server, Shard
from cachebackend.effects import Command, Reply
from cachebackend.node import Node
from cachebackend.options import NodeAddress


class Topologies:
    """Stands for the cluster: it knows one shard, and redirects nothing."""

    def __init__(self) -> None:
        self.loads = 0
        self.shard: ShardNode | None = None

    def load(self) -> None:
        self.loads += 1
        if self.shard is not None:
            self.shard.become(Shard(Server("a", "a.test", 7000), (), ()))

    reload = load

    @staticmethod
    def follow(asked: ShardNode, commands: Sequence[Command], replies: list[Reply]) -> list[Reply]:
        del asked, commands
        return replies

    @staticmethod
    async def follow_async(
        asked: ShardNode, commands: Sequence[Command], replies: list[Reply]
    ) -> list[Reply]:
        del asked, commands
        return replies


@pytest.fixture
def topologies() -> Topologies:
    return Topologies()


@pytest.fixture
def shard(topologies: Topologies) -> ShardNode:
    return ShardNode(topologies, NodeAddress("cluster", 1.0, "redis://cluster:1/0"), 0.1, 0.1, SYSTEM_CLOCK)


def test_the_address_is_read_when_it_is_needed(shard: ShardNode, topologies: Topologies) -> None:
    """Once; a cluster without this shard is an error."""
    with pytest.raises(ConnectionError, match="no shard that owns slots"):
        shard.primary()
    topologies.shard = shard
    assert shard.primary() == asyncio.run(shard.primary_async()) == ("a.test", 7000)
    assert (topologies.loads, shard.name) == (2, "a.test:7000")


def test_commands_of_several_keys_are_one_command_for_each_key(
    shard: ShardNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent together; the caller gets one reply for each command."""
    sent: list[Sequence[Command]] = []

    class Received:
        @staticmethod
        def receive() -> list[Reply]:
            return [b"1", b"2", b"3"]

        @staticmethod
        def abandon() -> None:
            sent.append([(b"abandoned",)])

    def send(_: Node, commands: Sequence[Command]) -> Any:
        sent.append(commands)
        return Received()

    async def submit(_: Node, commands: Sequence[Command]) -> list[Reply]:
        sent.append(commands)
        return [b"1", b"2", b"3"]

    monkeypatch.setattr(Node, "send", send)
    monkeypatch.setattr(Node, "submit", submit)
    commands: list[Command] = [(b"MGET", b"a", b"b"), (b"GET", b"c")]
    pending = shard.send(commands)
    assert pending.receive() == [[b"1", b"2"], b"3"]
    pending.abandon()

    async def submitted() -> list[Reply]:
        return await shard.submit(commands)

    assert asyncio.run(submitted()) == [[b"1", b"2"], b"3"]
    gets = [(b"GET", b"a"), (b"GET", b"b"), (b"GET", b"c")]
    assert sent == [gets, [(b"abandoned",)], gets]
    assert shard.call((b"MGET", b"a", b"b", b"c")) == [b"1", b"2", b"3"]


def test_a_promoted_replica_is_ejected_before_its_address_is_used(
    shard: ShardNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that another thread opens to it meanwhile would read what the replay has not deleted."""
    old, new = Server("a", "a.test", 7000), Server("b", "b.test", 7000)
    shard.become(Shard(old, (new,), ()))
    seen: list[Any] = []
    monkeypatch.setattr(shard, "hold", lambda reason: seen.append((shard.primary(), reason)))
    shard.become(Shard(new, (), ()))
    [(address, reason)] = seen
    assert (address, shard.primary()) == (("a.test", 7000), ("b.test", 7000))
    assert "has taken over from a.test:7000" in reason
