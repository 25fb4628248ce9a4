"""A node that fails is probed, and serves again after the replay of what it has missed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cachebackend.clock import SYSTEM_CLOCK
from cachebackend.effects import Command, Reply
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.node.breaker import EJECTED, UP, Breaker
from cachebackend.node.probed import Exchange, ProbedNode
from cachebackend.options import NodeAddress


class Wire:
    """Stands for a connection and for the pool that makes it."""

    def __init__(self) -> None:
        self.sent: list[Command] = []
        self.answer: Callable[[Command], Reply] = lambda _: b"PONG"
        self.closed = self.released = 0

    def make(self) -> Wire:
        return self

    def send(self, commands: Sequence[Command]) -> None:
        self.sent += commands

    def replies(self, commands: Sequence[Command]) -> list[Reply]:
        return [self.answer(command) for command in commands]

    def close(self) -> None:
        self.closed += 1

    def release_or_close(self, _: Wire) -> None:
        self.released += 1


class TwoRounds:
    """Stands for a replay during which one more delete is missed."""

    def __init__(self) -> None:
        self.rounds = 0

    def replay_all(self, exchange: Exchange) -> None:
        exchange([(b"DEL", b"a")])

    def replay_own(self, exchange: Exchange) -> None:
        exchange([(b"DEL", b"own")])

    def replay_rest(self, exchange: Exchange) -> None:
        exchange([(b"DEL", b"b")])

    def is_complete(self) -> bool:
        self.rounds += 1
        return self.rounds == 2

    def has_orphans(self) -> bool:
        return False


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def probed(wire: Wire) -> ProbedNode:
    """An ejected node whose probe runs at once, in the thread of the test."""
    pool: Any = wire
    node = ProbedNode(NodeAddress("a", 1.0, "redis://a.test"), pool, 0.1)
    node.breaker = Breaker("a", SYSTEM_CLOCK)
    node._spawn = lambda probe: probe()  # type: ignore[method-assign]
    return node


def state_of(node: ProbedNode) -> str:
    assert node.breaker is not None
    return node.breaker.state.state


def test_a_node_that_answers_serves_after_the_replay(probed: ProbedNode, wire: Wire) -> None:
    """What is missed meanwhile is replayed, too; the connection is kept."""
    probed.fail("failed by a test")
    assert state_of(probed) == EJECTED
    assert probed.breaker is not None
    assert probed.breaker.hold(NodeUnavailableError("held by a test"))
    probed.replay = TwoRounds()
    probed._start_probe()
    assert (state_of(probed), wire.released, wire.closed) == (UP, 1, 0)
    assert wire.sent == [(b"PING",), (b"DEL", b"a"), (b"DEL", b"b")]


def test_a_node_that_refuses_the_replay_stays_ejected(probed: ProbedNode, wire: Wire) -> None:
    """Its error is the reason."""
    wire.answer = lambda command: NodeReplyError("NOPERM") if command[0] == b"DEL" else b"PONG"
    probed.fail("failed by a test")
    probed.replay = TwoRounds()
    assert probed.breaker is not None
    probed.breaker.hold(NodeUnavailableError("held by a test"))
    probed._start_probe()
    assert (state_of(probed), wire.released, wire.closed) == (EJECTED, 0, 1)
    assert "NOPERM" in probed.breaker.state.error


def test_a_node_that_serves_gets_only_what_this_process_has_missed(probed: ProbedNode, wire: Wire) -> None:
    """A database that cannot be read does not eject it."""
    probed.replay = TwoRounds()
    probed.request_replay()
    assert wire.sent == [(b"PING",), (b"DEL", b"own"), (b"DEL", b"b")]


def test_a_node_that_is_ejected_during_its_replay_gets_all(probed: ProbedNode, wire: Wire) -> None:
    """What other processes have missed since, too."""

    def fail(command: Command) -> Reply:
        if command == (b"DEL", b"own"):
            probed.fail("failed by a test")
        return 1

    wire.answer, probed.replay = fail, TwoRounds()
    probed.request_replay()
    assert wire.sent == [(b"PING",), (b"DEL", b"own"), (b"DEL", b"a"), (b"DEL", b"b")]
    assert state_of(probed) == UP


def test_a_process_that_cannot_start_a_thread_probes_later(probed: ProbedNode) -> None:
    """The caller gets no error."""

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    probed._spawn = refuse  # type: ignore[method-assign, assignment]
    probed.request_replay()
    assert probed.breaker is not None
    assert (state_of(probed), "cannot be probed" in probed.breaker.state.error) == (EJECTED, True)
    assert probed.is_ejected


def test_a_look_at_an_ejected_node_probes_it_before_that_is_due(probed: ProbedNode) -> None:
    """So a page that a person watches shows within one refresh that the node is back."""
    probed.probe_early()
    assert probed.breaker is not None
    assert probed.breaker.begin_probe() is False
    probed.fail("failed by a test")
    probed.probe_early()
    assert state_of(probed) == UP
