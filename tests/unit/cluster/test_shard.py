"""A shard as a node: its present primary, and commands of several keys."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Hashable, Sequence
from typing import Any

import pytest

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.cluster.shard import ShardNode
from cachebackend.cluster.topology import Server, Shard
from cachebackend.effects import Command, Reply
from cachebackend.errors import NodeUnavailableError, RedirectedError
from cachebackend.node import Node
from cachebackend.node.breaker import Breaker
from cachebackend.options import NodeAddress
from cachebackend.protocol.ring.node_deletes import confirm_command, delete_command
from tests.unit.cluster.shards import NothingMissed


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
    def follow(
        asked: ShardNode,
        commands: Sequence[Command],
        replies: list[Reply],
        servers: list[ShardNode] | None = None,
    ) -> list[Reply]:
        del commands
        if servers is not None:
            servers += [asked] * len(replies)
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

    def start(_: Node, commands: Sequence[Command]) -> asyncio.Future[list[Reply]]:
        sent.append(commands)
        replies: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        replies.set_result([b"1", b"2", b"3"])
        return replies

    monkeypatch.setattr(Node, "send", send)
    monkeypatch.setattr(Node, "_start", start)
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


def test_a_task_that_is_cancelled_before_it_runs_leaves_no_coroutine(shard: ShardNode) -> None:
    """Python would warn of one that nothing awaits."""

    async def cancel() -> None:
        task = asyncio.ensure_future(shard.submit([(b"GET", b"a")]))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    gc.collect()


A, B = Server("a", "a.test", 7000), Server("b", "b.test", 7000)
#: The connection of a probe that has nothing to replay.
UNUSED: Any = None


@pytest.fixture
def promoted(shard: ShardNode, monkeypatch: pytest.MonkeyPatch) -> ShardNode:
    """A shard whose replica B was promoted; its probe has not run."""
    monkeypatch.setattr(ShardNode, "_start_probe", lambda self: None)
    shard.breaker, shard.replay = Breaker("a", SYSTEM_CLOCK), NothingMissed()
    shard.become(Shard(A, (B,), ()))
    shard.become(Shard(B, (), ()))
    return shard


def test_a_promoted_server_is_served_when_it_has_the_missed_deletes(promoted: ShardNode) -> None:
    """Until then only the probe connects to it, also if another thread has found the node not ejected."""
    breaker = promoted.breaker
    assert breaker is not None
    assert breaker.is_open
    with pytest.raises(ConnectionError, match="has not got yet the deletes"):
        promoted.primary()
    promoted._prepare_probe()
    assert promoted.primary() == ("b.test", 7000)
    promoted._prober = None
    promoted._replay_and_close(UNUSED)
    assert (promoted.primary(), breaker.is_open) == (("b.test", 7000), False)


def test_a_replay_to_the_old_primary_does_not_serve_the_new_one(promoted: ShardNode) -> None:
    """The probe had begun before the promotion; the next one replays again."""
    promoted._probed = A, promoted._held
    with pytest.raises(NodeUnavailableError, match="has taken over or got slots while"):
        promoted._replay_and_close(UNUSED)
    breaker = promoted.breaker
    assert breaker is not None
    assert breaker.is_open


def test_a_promotion_that_a_signal_handler_interrupts_is_followed_again(
    promoted: ShardNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connections to the old primary are not used any more, and the new one is not served yet."""
    renewed: list[str] = []

    def renew(shard: ShardNode) -> None:
        renewed.append(shard.name)
        if len(renewed) == 1:
            raise KeyboardInterrupt

    breaker = promoted.breaker
    assert breaker is not None
    breaker.close()
    promoted.become(Shard(B, (), ()))
    assert (breaker.is_open, renewed) == (False, [])  # it was followed to the end
    monkeypatch.setattr(ShardNode, "renew_connections", renew)
    with pytest.raises(KeyboardInterrupt):
        promoted.become(Shard(A, (), ()))
    promoted.become(Shard(A, (), ()))
    assert (renewed, breaker.is_open) == (["a.test:7000"] * 2, True)
    assert "it has taken over from b.test:7000" in breaker.state.error


def test_a_shard_without_deletes_to_replay_serves_a_promoted_server_at_once(shard: ShardNode) -> None:
    """The queue has none."""
    shard.breaker = Breaker("a", SYSTEM_CLOCK)
    shard.become(Shard(A, (B,), ()))
    shard.become(Shard(B, (), ()))
    shard.hold("slots have moved to it")
    assert (shard.breaker.is_open, shard.primary()) == (False, ("b.test", 7000))


def test_a_probe_deletes_what_may_have_been_moved_here(shard: ShardNode) -> None:
    """What is postponed meanwhile follows before the shard is served."""
    shard.become(Shard(A, (), ()))
    postponed: dict[Hashable, Command] = {key: delete_command([key]) for key in (b"here", b"elsewhere")}
    shard.postponed = lambda: postponed
    deletes: list[Reply] = [b"OK", 1, b"OK", RedirectedError.read("MOVED 1 b.test:7000")]
    answers = iter([deletes, [b"OK", 1]])

    class Wire:
        def __init__(self) -> None:
            self.sent: list[Command] = []

        def send(self, commands: Sequence[Command]) -> None:
            self.sent += commands

        def replies(self, commands: Sequence[Command]) -> list[Reply]:
            del commands
            return next(answers)

    wire: Any = Wire()
    shard._probed = shard.server, shard._held
    shard.breaker = Breaker("a", SYSTEM_CLOCK)
    shard._before_replay(wire)
    assert wire.sent == []  # it serves reads already, and is probed for a delete that it has missed
    assert shard._is_replayed(lambda: True)
    shard.breaker.failed(NodeUnavailableError("ejected meanwhile"), at_once=True)
    assert not shard._is_replayed(lambda: True)
    shard._before_replay(wire)
    asking = (b"ASKING",)
    assert wire.sent == [asking, delete_command([b"here"]), asking, delete_command([b"elsewhere"])]
    assert shard._is_replayed(lambda: True)
    postponed[b"late"] = delete_command([b"late"])
    assert not shard._is_replayed(lambda: True)
    shard._before_replay(wire)
    assert wire.sent[4:] == [asking, delete_command([b"late"])]
    assert shard._is_replayed(lambda: True)


def test_a_confirmation_that_is_redirected_does_not_fail_the_probe(shard: ShardNode) -> None:
    """The probe waits for no replicas."""
    own: list[Reply] = [RedirectedError.read("ASK 1 b.test:7000")]
    replies: list[Reply] = [NodeUnavailableError("redirected")]
    shard._postpone([confirm_command(b"a")], own, replies, [shard])
    assert replies == [0]


def test_a_delete_that_fails_elsewhere_does_not_fail_the_probe(
    shard: ShardNode, topologies: Topologies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is not at this server any more, or nowhere; its other keys would miss too.

    The other server is not read before it has got the delete, even if it is up.
    """
    address = NodeAddress("cluster", 1.0, "redis://cluster:1/0")
    other = ShardNode(topologies, address, 0.1, 0.1, SYSTEM_CLOCK)
    other.breaker, other.replay = Breaker("b", SYSTEM_CLOCK), NothingMissed()
    monkeypatch.setattr(other, "_start_probe", lambda: held.append(list(postponed)))
    held: list[list[bytes]] = []
    unserved, down = NodeUnavailableError("no server"), NodeUnavailableError("down")
    unserved.ejects = False
    own: list[Reply] = [1, unserved, RedirectedError.read("MOVED 1 b.test:7000"), b"PONG"]

    class Wire:
        def send(self, commands: Sequence[Command]) -> None:
            assert len(commands) == len(own)

        def replies(self, commands: Sequence[Command]) -> list[Reply]:
            del commands
            return own

    postponed: list[bytes] = []
    shard.on_postponed = lambda keys: postponed.extend(keys) is None

    def follow(
        _: Topologies,
        asked: ShardNode,
        commands: Sequence[Command],
        replies: list[Reply],
        servers: list[ShardNode],
    ) -> list[Reply]:
        del commands
        servers += [asked, asked, other, asked]
        return [*replies[:2], down, replies[3]]

    monkeypatch.setattr(Topologies, "follow", follow)
    wire: Any = Wire()
    assert shard._exchange(wire, [delete_command([b"a", b"b", b"c"]), (b"PING",)]) == [1, b"PONG"]
    assert postponed == [b"b", b"c"]
    assert (held, other.breaker.is_open) == ([[b"b", b"c"]], True)
    own[0] = down
    with pytest.raises(NodeUnavailableError, match="down"):
        shard._exchange(wire, [delete_command([b"a", b"b", b"c"]), (b"PING",)])
