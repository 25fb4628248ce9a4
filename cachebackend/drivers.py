"""Run an operation to its end: ``drive`` in blocking code, ``adrive`` in asyncio.

Both perform the same effects on the same nodes. What an effect raises (a loader's
error, a cancellation) is thrown into the operation, which cleans up by further effects
and lets it pass. A node that did not answer is not asked again by the same operation, so
that nobody waits for it twice.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias, TypeVar

from cachebackend.effects import (
    Command,
    Effect,
    Load,
    Operation,
    Reply,
    ScriptCall,
    Send,
    Sleep,
    is_unknown_script,
)
from cachebackend.errors import NodeUnavailableError
from cachebackend.tracing import span

__all__ = ["DeferredCalls", "NodePort", "Pending", "adrive", "drive", "load"]

T = TypeVar("T")
#: The nodes that did not answer an operation, and what it is told when it asks them again.
_Lost: TypeAlias = dict[int, NodeUnavailableError]


class Pending(Protocol):
    """Commands that were sent, whose replies were not yet read."""

    def receive(self) -> list[Reply]:
        """Return a reply for each command; a failure stands in its place and is not raised."""
        ...

    def abandon(self) -> None:
        """Give the replies up."""
        ...


class NodePort(Protocol):
    """What a driver needs of a node."""

    def call(self, command: Command) -> Reply:
        """Send one command and return its reply; a failure is returned in its place."""
        ...

    def send(self, commands: Sequence[Command]) -> Pending:
        """Send the commands; a failure shows in the replies."""
        ...

    def submit(self, commands: Sequence[Command]) -> Awaitable[list[Reply]]:
        """Send the commands now where the connection stands, and return what awaits their replies."""
        ...


class DeferredCalls:
    """A block of an event loop at whose end other threads do what would have kept the loop waiting.

    What nodes miss is kept by a database. What threads, or tasks that outlive the block, have to
    keep, they keep at once.

    Attributes:
        calls: What ``make_calls`` is to be awaited for; None: the block has ended.
    """

    __slots__ = ("_thread", "_token", "calls")
    _mine: ContextVar[DeferredCalls | None] = ContextVar("later", default=None)

    def __enter__(self) -> DeferredCalls:
        self._thread = threading.get_ident()
        self.calls: list[Callable[[], None]] | None = []
        self._token = self._mine.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._mine.reset(self._token)
        self.calls = None

    async def make_calls(self) -> None:
        """Have everything called, and return when it was."""
        calls, self.calls = self.calls or [], None
        await asyncio.gather(*[asyncio.to_thread(call) for call in calls])

    @classmethod
    def call(cls, work: Callable[[], None]) -> None:
        """Call a function: at once, or in such a block when it ends."""
        mine = cls._mine.get()
        if mine is None or mine.calls is None or mine._thread != threading.get_ident():
            work()
        else:
            mine.calls.append(work)


def drive(operation: Operation[T], nodes: Sequence[NodePort]) -> T:
    """Run an operation in the calling thread and return its result."""
    lost: _Lost = {}
    try:
        effect = next(operation)
        while True:
            try:
                outcome = _perform(effect, nodes, lost)
            except BaseException as error:  # noqa: BLE001  # the operation's to handle or let pass
                effect = operation.throw(error)
            else:
                effect = operation.send(outcome)
    except StopIteration as end:
        result: T = end.value
        return result


async def adrive(operation: Operation[T], nodes: Sequence[NodePort]) -> T:
    """Run an operation in the running event loop and return its result."""
    lost: _Lost = {}
    with DeferredCalls() as deferred:
        try:
            effect = next(operation)
            while True:
                try:
                    outcome = await _aperform(effect, nodes, lost)
                except BaseException as error:  # noqa: BLE001  # the operation's to handle or let pass
                    effect = operation.throw(error)
                else:
                    effect = operation.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            if deferred.calls:
                await deferred.make_calls()


def _perform(effect: Effect, nodes: Sequence[NodePort], lost: _Lost) -> Any:
    if effect.__class__ is Send:  # most are
        replies = _scatter(effect.requests, nodes, lost)
        if lacking := _lacking_scripts(effect.requests, replies):
            again = _scatter([request for _, request in lacking], nodes, lost)
            _put(replies, lacking, again)
        return replies
    match effect:
        case Sleep(seconds):
            return time.sleep(seconds)
        case Load(loader):
            return load(loader)


def load(loader: Callable[[], Any]) -> Any:
    """Return what a caller's loader returns."""
    with span("ringcache.load"):
        return loader()


async def _aperform(effect: Effect, nodes: Sequence[NodePort], lost: _Lost) -> Any:
    if effect.__class__ is Send:  # most are
        replies = await _ascatter(effect.requests, nodes, lost)
        if lacking := _lacking_scripts(effect.requests, replies):
            again = await _ascatter([request for _, request in lacking], nodes, lost)
            _put(replies, lacking, again)
        return replies
    match effect:
        case Sleep(seconds):
            return await asyncio.sleep(seconds)
        case Load(loader):
            with span("ringcache.load"):
                value = loader()
                return await value if inspect.isawaitable(value) else value


Requests = Sequence[tuple[int, Command]]


def _scatter(requests: Requests, nodes: Sequence[NodePort], lost: _Lost) -> list[Reply]:
    """Send every node its commands, then read every node's replies."""
    if len(requests) == 1:
        [(node, command)] = requests
        reply = nodes[node].call(command) if node not in lost else lost[node]
        _look(node, reply, lost)
        return [reply]
    groups = _by_node(requests)
    replies = _of_lost(requests, groups, lost)
    pending: list[tuple[int, list[int], Pending]] = []
    try:
        for node, positions in groups.items():
            pending.append((node, positions, nodes[node].send([requests[at][1] for at in positions])))
        while pending:
            node, positions, waiting = pending.pop()
            for at, reply in zip(positions, waiting.receive(), strict=True):
                replies[at] = reply
            _look(node, replies[positions[-1]], lost)
    finally:
        for _, _, waiting in pending:
            waiting.abandon()
    return replies


async def _ascatter(requests: Requests, nodes: Sequence[NodePort], lost: _Lost) -> list[Reply]:
    groups = _by_node(requests)
    replies = _of_lost(requests, groups, lost)
    waiting = [
        nodes[node].submit([requests[at][1] for at in positions]) for node, positions in groups.items()
    ]
    answers = [await waiting[0]] if len(waiting) == 1 else await asyncio.gather(*waiting)
    for (node, positions), answer in zip(groups.items(), answers, strict=True):
        for at, reply in zip(positions, answer, strict=True):
            replies[at] = reply
        _look(node, answer[-1], lost)
    return replies


def _of_lost(requests: Requests, groups: dict[int, list[int]], lost: _Lost) -> list[Reply]:
    """Return room for the replies, with those of nodes that are not asked again, who leave the groups."""
    replies: list[Reply] = [None] * len(requests)
    for node in lost.keys() & groups.keys() if lost else ():
        for at in groups.pop(node):
            replies[at] = lost[node]
    return replies


def _look(node: int, last: Reply, lost: _Lost) -> None:
    """Note a node that did not answer; one that only refuses writes is asked again."""
    if last.__class__ is NodeUnavailableError and last.ejects and node not in lost:
        lost[node] = told = NodeUnavailableError(str(last))  # of what was not sent
        told.__cause__ = last


def _by_node(requests: Requests) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for at, (node, _) in enumerate(requests):
        groups.setdefault(node, []).append(at)
    return groups


def _lacking_scripts(requests: Requests, replies: Sequence[Reply]) -> list[tuple[int, tuple[int, Command]]]:
    """Return position and request, with its source, of each script call that its node did not know.

    NOSCRIPT says that nothing ran, so sending it again cannot run it twice.
    """
    return [
        (at, (requests[at][0], command.with_source))
        for at, reply in enumerate(replies)
        if is_unknown_script(reply) and isinstance(command := requests[at][1], ScriptCall)
    ]


def _put(replies: list[Reply], lacking: list[tuple[int, tuple[int, Command]]], again: list[Reply]) -> None:
    for (at, _), reply in zip(lacking, again, strict=True):
        replies[at] = reply
