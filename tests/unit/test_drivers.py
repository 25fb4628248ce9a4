from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cachebackend.drivers import adrive, drive
from cachebackend.effects import Command, Load, Operation, Reply, Script, Send, Sleep
from cachebackend.errors import NodeReplyError, NodeUnavailableError

Drive = Callable[..., Any]


class FakeNode:
    """Notes what it is sent and when it is read; answers each command with its own arguments."""

    def __init__(self, name: str, journal: list[str]) -> None:
        self.name, self.journal = name, journal

    def answer(self, command: Command) -> Reply:
        return (
            NodeReplyError("NOSCRIPT no such script") if command[0] == b"EVALSHA" else (self.name, *command)
        )

    def call(self, command: Command) -> Reply:
        [reply] = self.send([command]).receive()
        return reply

    def send(self, commands: Sequence[Command]) -> FakePending:
        self.journal.append(f"send {self.name}")
        return FakePending(self, commands)

    def submit(self, commands: Sequence[Command]) -> asyncio.Future[list[Reply]]:
        self.journal.append(f"send {self.name}")
        future: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        future.set_result([self.answer(command) for command in commands])
        return future


class FakePending:
    def __init__(self, node: FakeNode, commands: Sequence[Command]) -> None:
        self.node, self.commands = node, commands

    def receive(self) -> list[Reply]:
        self.node.journal.append(f"read {self.node.name}")
        return [self.node.answer(command) for command in self.commands]

    def abandon(self) -> None:
        self.node.journal.append(f"abandon {self.node.name}")


@pytest.fixture(params=["drive", "adrive"])
def run(request: pytest.FixtureRequest) -> Drive:
    """Either driver, called the same way."""
    if request.param == "drive":
        return drive
    return lambda operation, nodes: asyncio.run(adrive(operation, nodes))


def test_replies_come_in_the_order_of_the_requests(run: Drive) -> None:
    """However the requests are spread over the nodes."""
    nodes = [FakeNode("a", []), FakeNode("b", [])]

    def operation() -> Operation[list[Reply]]:
        return (yield Send([(1, (b"X",)), (0, (b"Y",)), (1, (b"Z",))]))

    assert run(operation(), nodes) == [("b", b"X"), ("a", b"Y"), ("b", b"Z")]


def test_every_node_is_sent_to_before_any_is_read() -> None:
    """One round trip, however many nodes."""
    journal: list[str] = []
    nodes = [FakeNode(name, journal) for name in "abc"]

    def operation() -> Operation[None]:
        yield Send([(number % 3, (b"X",)) for number in range(9)])

    drive(operation(), nodes)
    assert [entry.split()[0] for entry in journal] == ["send"] * 3 + ["read"] * 3


def test_a_script_that_a_node_lacks_is_sent_whole(run: Drive) -> None:
    """NOSCRIPT says that nothing ran; only that call is sent again, with its source."""
    script = Script("cachebackend.protocol.cache", "ttl")

    def operation() -> Operation[list[Reply]]:
        return (yield Send([(0, (b"X",)), (0, script.call([b"k"], 5))]))

    assert run(operation(), [FakeNode("a", [])]) == [("a", b"X"), ("a", b"EVAL", script.source, 1, b"k", 5)]


@pytest.mark.parametrize("count", [1, 2])
def test_a_node_that_did_not_answer_is_not_asked_again(run: Drive, count: int) -> None:
    """By the same operation, of which a first command may have arrived; one that refuses writes is."""
    nodes = [FakeNode(name, []) for name in ("gone", "full", "well")]
    failures = [NodeUnavailableError("gone"), NodeUnavailableError("full")]
    failures[0].was_sent, failures[1].ejects = True, False
    for node, failure in zip(nodes, failures, strict=False):
        node.answer = lambda _, failure=failure: failure  # type: ignore[method-assign,misc]
    found: list[list[Reply]] = []

    def operation() -> Operation[None]:
        for asked in ([0], [1], [2], [0], [1], [2], [0, 1, 2]):
            replies = yield Send([(node, (b"X",)) for node in asked for _ in range(count)])
            found.append(replies)

    run(operation(), nodes)
    assert [sum(entry.startswith("send") for entry in node.journal) for node in nodes] == [1, 3, 3]
    assert [str(reply) for reply in found[3]] == ["gone"] * count
    assert (found[0][0].was_sent, found[3][0].was_sent) == (True, False)
    assert [*map(str, found[6][::count])][:2] == ["gone", "full"]
    assert found[6][-1] == ("well", b"X")


def test_what_a_loader_raises_reaches_the_operation_and_then_the_caller(run: Drive) -> None:
    """The operation may clean up by further effects before it lets the error pass."""
    journal: list[str] = []

    def operation() -> Operation[None]:
        try:
            yield Load(lambda: 1 / 0)
        except ZeroDivisionError:
            yield Send([(0, (b"CLEANUP",))])
            raise

    with pytest.raises(ZeroDivisionError):
        run(operation(), [FakeNode("a", journal)])
    assert journal[0] == "send a"


def test_adrive_awaits_what_a_loader_returns() -> None:
    """A coroutine function is a loader too."""

    async def loader() -> int:
        return 7

    def operation() -> Operation[int]:
        return (yield Load(loader))

    assert asyncio.run(adrive(operation(), [])) == 7


def test_a_cancelled_task_lets_its_operation_clean_up() -> None:
    """A lease is given back when the task that holds it is cancelled."""
    journal: list[str] = []

    def operation() -> Operation[None]:
        try:
            yield Sleep(3600)
        finally:
            yield Send([(0, (b"CLEANUP",))])

    async def main() -> None:
        task = asyncio.ensure_future(adrive(operation(), [FakeNode("a", journal)]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert journal == ["send a"]


def test_what_was_sent_is_abandoned_if_reading_breaks_off() -> None:
    """A connection with unread replies must not be used again."""
    journal: list[str] = []
    nodes = [FakeNode(name, journal) for name in "ab"]

    def interrupt(command: Command) -> Reply:
        raise KeyboardInterrupt

    nodes[1].answer = interrupt  # type: ignore[method-assign]

    def operation() -> Operation[None]:
        yield Send([(0, (b"X",)), (1, (b"X",))])

    with pytest.raises(KeyboardInterrupt):
        drive(operation(), nodes)
    assert journal == ["send a", "send b", "read b", "abandon a"]
