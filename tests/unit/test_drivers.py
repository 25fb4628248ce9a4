from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cachebackend.drivers import DeferredCalls, adrive, drive
from cachebackend.effects import Ask, Command, Load, Operation, Reply, Script, Send, Sleep
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.loader import held_tokens
from cachebackend.replies import integer
from tests.threadless import threadless

Drive = Callable[..., Any]


class FakeNode:
    """Records when it is sent to and read from; replies to each command with its arguments."""

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
    """Each driver, called in the same way."""
    if request.param == "drive":
        return drive
    return lambda operation, nodes: asyncio.run(adrive(operation, nodes))


def test_replies_come_in_the_order_of_the_requests(run: Drive) -> None:
    """In any order of the nodes."""
    nodes = [FakeNode("a", []), FakeNode("b", [])]

    def operation() -> Operation[list[Reply]]:
        return (yield Send([(1, (b"X",)), (0, (b"Y",)), (1, (b"Z",))]))

    assert run(operation(), nodes) == [("b", b"X"), ("a", b"Y"), ("b", b"Z")]


def test_commands_are_sent_to_all_nodes_before_any_reply_is_read() -> None:
    """Any number of nodes costs one round trip."""
    journal: list[str] = []
    nodes = [FakeNode(name, journal) for name in "abc"]

    def operation() -> Operation[None]:
        yield Send([(number % 3, (b"X",)) for number in range(9)])

    drive(operation(), nodes)
    assert [entry.split()[0] for entry in journal] == ["send"] * 3 + ["read"] * 3


def test_a_script_that_a_node_does_not_know_is_sent_with_its_source(run: Drive) -> None:
    """NOSCRIPT means that nothing ran; only this call is sent again."""
    script = Script("cachebackend.protocol.cache", "ttl", reply=integer)

    def operation() -> Operation[list[Reply]]:
        return (yield Send([(0, (b"X",)), (0, script.call([b"k"], b"5"))]))

    assert run(operation(), [FakeNode("a", [])]) == [
        ("a", b"X"),
        ("a", b"EVAL", script.source, b"1", b"k", b"5"),
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_a_node_that_did_not_answer_gets_no_more_commands(run: Drive, count: int) -> None:
    """From the same operation. Its first command may have arrived. A node that refuses writes gets more."""
    nodes = [FakeNode(name, []) for name in ("gone", "full", "well")]
    failures = [NodeUnavailableError("gone"), NodeUnavailableError("full")]
    failures[0].was_sent, failures[1].ejects = True, False
    for node, failure in zip(nodes, failures, strict=False):
        node.answer = lambda _, failure=failure: failure  # type: ignore[method-assign,misc]
    all_replies: list[list[Reply]] = []

    def operation() -> Operation[None]:
        for targets in ([0], [1], [2], [0], [1], [2], [0, 1, 2]):
            replies = yield Send([(node, (b"X",)) for node in targets for _ in range(count)])
            all_replies.append(replies)

    run(operation(), nodes)
    assert [sum(entry.startswith("send") for entry in node.journal) for node in nodes] == [1, 3, 3]
    assert [str(reply) for reply in all_replies[3]] == ["gone"] * count
    assert (all_replies[0][0].was_sent, all_replies[3][0].was_sent) == (True, False)
    assert [*map(str, all_replies[6][::count])][:2] == ["gone", "full"]
    assert all_replies[6][-1] == ("well", b"X")


def test_an_error_of_a_loader_is_raised_in_the_operation_and_then_to_the_caller(run: Drive) -> None:
    """The operation can clean up by further effects before it raises the error again."""
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


def test_adrive_awaits_the_result_of_a_loader() -> None:
    """A loader may be a coroutine function."""

    async def loader() -> int:
        return 7

    def operation() -> Operation[int]:
        return (yield Load(loader))

    assert asyncio.run(adrive(operation(), [])) == 7


def test_a_question_is_asked_in_the_form_of_the_driver(run: Drive, request: pytest.FixtureRequest) -> None:
    """By the blocking function, or by the coroutine function."""

    async def async_question() -> str:
        return "adrive"

    def operation() -> Operation[str]:
        return (yield Ask(lambda: "drive", async_question))

    assert run(operation(), []) == request.node.callspec.params["run"]


def test_a_loader_runs_under_the_tokens_of_its_leases(run: Drive) -> None:
    """And under those of the loaders around it; they end with the loader, even if it fails."""
    outer, inner = b"outer", b"inner"

    def operation() -> Operation[tuple[bytes, ...]]:
        return (yield Load(held_tokens, (inner,)))

    def nested() -> Operation[Any]:
        return (yield Load(lambda: run(operation(), []), (outer,)))

    if run is drive:
        assert run(nested(), []) == (outer, inner)
    assert run(operation(), []) == (inner,)
    with pytest.raises(ZeroDivisionError):
        run(failing(), [])
    assert held_tokens() == ()


def failing() -> Operation[None]:
    yield Load(lambda: 1 / 0, (b"token",))


def test_the_operation_of_a_cancelled_task_cleans_up() -> None:
    """So a lease is released when the task that holds it is cancelled."""
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


def test_replies_are_abandoned_if_reading_fails() -> None:
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


def test_deferred_calls_are_made_in_the_event_loop_if_no_thread_can_start() -> None:
    """The process is at its limit of threads, or ends."""
    calls: list[int] = []

    async def defer() -> None:
        with DeferredCalls() as deferred, threadless():
            deferred.call(lambda: calls.append(1))
            await deferred.make_calls()

    asyncio.run(defer())
    assert calls == [1]
