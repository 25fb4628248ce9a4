"""One slot as a node: where its commands go, what waits while it moves, and a shard that stops answering."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.cluster import Cluster, PartRing, ShardNode, SlotNode, slot
from cachebackend.effects import Command, Reply
from cachebackend.errors import MovingSlotError, NodeUnavailableError
from cachebackend.node import Breaker
from cachebackend.options import ClusterAddress
from tests.unit.protocol.stepping import StillClock

GET, SET = (b"GET", b"{q0}:a"), (b"SET", b"{q0}:b", b"1")


class Shard:
    """Answers a script of replies, and records what it was sent."""

    def __init__(self, name: str, *replies: list[Reply]) -> None:
        self.name, self.endpoint, self.is_ejected, self.closed = name, "seed/cluster", False, 0
        self.breaker = Breaker(name, SYSTEM_CLOCK)
        self.sent: list[list[Command]] = []
        self.replies, self.abandoned = list(replies), 0

    def call(self, command: Command) -> Reply:
        return self.send([command]).receive()[0]

    def send(self, commands: Sequence[Command]) -> Shard:
        self.sent.append(list(commands))
        return self

    def receive(self) -> list[Reply]:
        return self.replies.pop(0)

    async def submit(self, commands: Sequence[Command]) -> list[Reply]:
        return self.send(commands).receive()

    def abandon(self) -> None:
        self.abandoned += 1

    def fail(self, reason: str) -> NodeUnavailableError:
        return NodeUnavailableError(reason)

    def close(self) -> None:
        self.closed += 1


class Clock(StillClock):
    """Moves when the node pauses."""

    def pause(self, seconds: float) -> None:
        self.at += seconds

    async def pause_async(self, seconds: float) -> None:
        self.at += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(slot.time, "sleep", clock.pause)
    monkeypatch.setattr(slot.asyncio, "sleep", clock.pause_async)
    return clock


def node_of(clock: Clock, *shards: Shard) -> tuple[SlotNode, Cluster]:
    cluster = Cluster(ClusterAddress((("seed", 7000),)), (0.1, 0.1), clock)
    cluster._members.shards = dict(enumerate(shards))  # type: ignore[arg-type]  # stand-ins
    return SlotNode(cluster, "q0", 1.0, clock), cluster


@pytest.fixture(params=["call", "send", "submit"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sent_by(node: SlotNode, way: str, commands: Sequence[Command]) -> list[Reply]:
    if way == "submit":
        return asyncio.run(_awaited(node, commands))
    return [node.call(each) for each in commands] if way == "call" else node.send(commands).receive()


async def _awaited(node: SlotNode, commands: Sequence[Command]) -> list[Reply]:
    return list(await node.submit(commands))


def test_commands_go_to_the_present_owner_of_the_slot(clock: Clock, way: str) -> None:
    """Its name and its breaker are those of that shard."""
    first, second = Shard("a:1", [b"1"]), Shard("b:1", [b"2"])
    node, cluster = node_of(clock, first, second)
    assert (sent_by(node, way, [GET]), node.name, node.server) == ([b"1"], "q0 at a:1", "a:1")
    cluster.ring.set_owner(3387, 1)
    assert (sent_by(node, way, [GET]), node.name, node.endpoint) == ([b"2"], "q0 at b:1", "seed/cluster")
    assert (node.breaker, node.is_ejected) == (second.breaker, False)
    assert str(node.fail("loops")) == "loops"
    node.close()
    assert (first.closed, second.closed) == (1, 1)


def test_what_is_refused_while_the_slot_moves_is_sent_again(clock: Clock, way: str) -> None:
    """To its owner of then; the other replies stay."""
    first, second = Shard("a:1", [MovingSlotError()]), Shard("b:1", [MovingSlotError()], [b"2"])
    node, cluster = node_of(clock, first, second)
    begun = clock.at
    moved = iter([1, 1])

    def move(seconds: float) -> None:
        clock.at += seconds
        cluster.ring.set_owner(3387, next(moved))

    async def move_async(seconds: float) -> None:
        move(seconds)

    slot.time.sleep, slot.asyncio.sleep = move, move_async  # the fixture restores them
    assert sent_by(node, way, [GET]) == [b"2"]
    assert (first.sent, second.sent) == ([[GET]], [[GET], [GET]])
    assert clock.at - begun == pytest.approx(slot.FIRST_PAUSE * 3)


@pytest.mark.parametrize("way", ["send", "submit"])
def test_only_the_refused_commands_are_sent_again(clock: Clock, way: str) -> None:
    """The server has executed the others."""
    shard = Shard("a:1", [b"1", MovingSlotError(), b"3"], [b"OK"])
    node, _ = node_of(clock, shard)
    assert sent_by(node, way, [GET, SET, GET]) == [b"1", b"OK", b"3"]
    assert shard.sent == [[GET, SET, GET], [SET]]


def test_a_slot_that_does_not_arrive_is_an_error(clock: Clock, way: str) -> None:
    """After the time of a reply. Nothing was executed, and the shard is not ejected."""
    shard = Shard("a:1", *[[MovingSlotError()] for _ in range(30)])
    node, _ = node_of(clock, shard)
    begun = clock.at
    [reply] = sent_by(node, way, [SET])
    assert isinstance(reply, MovingSlotError)
    assert (reply.was_sent, reply.ejects) == (False, False)
    assert 0.8 < clock.at - begun < 1.0


def test_only_the_first_slot_waits_for_a_shard_that_stops_answering(clock: Clock) -> None:
    """The others were sent their commands too, and their outcome is not known."""
    shard = Shard("a:1", [b"1"])
    node, _ = node_of(clock, shard)
    sent = node.send([SET, SET])
    shard.breaker.failed(NodeUnavailableError("late"), at_once=True)
    replies = sent.receive()
    assert [type(reply) for reply in replies] == [NodeUnavailableError] * 2
    assert all(reply.was_sent for reply in replies)
    assert shard.abandoned == 1
    refused = node.send([SET])  # the shard itself refuses it, because it is ejected already
    assert refused.receive() == [b"1"]
    refused.abandon()
    assert shard.abandoned == 2


def test_a_shard_of_the_cluster_is_a_node_of_the_slot() -> None:
    """Until the topology is read, the first shard stands for all."""
    cluster = Cluster(ClusterAddress((("seed", 7000),)), (0.1, 0.1), SYSTEM_CLOCK)
    assert SlotNode(cluster, "q0", 1.0, SYSTEM_CLOCK).shard is cluster.shards[0]
    assert isinstance(cluster.shards[0], ShardNode)


def test_a_cluster_makes_the_copies_of_a_key() -> None:
    """Two parts would send the same key to one server, which would count twice."""
    ring = PartRing([("a", 1.0), ("b", 1.0), ("c", 1.0)])
    assert ring.copies(b"key", 2) == [ring.owner(b"key")]
