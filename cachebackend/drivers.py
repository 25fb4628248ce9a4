"""The drivers, which run an operation to its end: ``drive`` in blocking code, ``adrive`` in asyncio.

Both perform the same effects on the same nodes. An error that an effect raises (a loader's error, a
cancellation) is thrown into the operation, which cleans up by further effects and raises it again. If
a node does not answer, the driver sends it no further command of the same operation, so the caller
waits for the node only once.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias, TypeVar

from cachebackend.effects import (
    Ask,
    Command,
    Effect,
    Load,
    Operation,
    Reply,
    Request,
    ScriptCall,
    Send,
    Sleep,
    is_unknown_script,
)
from cachebackend.errors import NodeReplyError, NodeUnavailableError
from cachebackend.loader import loader_block
from cachebackend.threads import call_in_thread
from cachebackend.tracing import span

__all__ = ["DeferredCalls", "FailedNodes", "NodePort", "Pending", "adrive", "drive", "load", "note_failure"]

T = TypeVar("T")
#: The nodes that did not answer the operation, and the reply to each later command to them.
FailedNodes: TypeAlias = dict[int, NodeUnavailableError]


class Pending(Protocol):
    """Commands that were sent, and whose replies were not read yet."""

    def receive(self) -> list[Reply]:
        """Return the reply to each command; a failure is a reply and is not raised."""
        ...

    def abandon(self) -> None:
        """Give up the replies: they will not be read."""
        ...


class NodePort(Protocol):
    """The part of a node that a driver uses."""

    def call(self, command: Command) -> Reply:
        """Send one command and return its reply; a failure is returned as the reply."""
        ...

    def send(self, commands: Sequence[Command]) -> Pending:
        """Send the commands; ``receive`` of the result returns their replies, failures included."""
        ...

    def submit(self, commands: Sequence[Command]) -> Awaitable[list[Reply]]:
        """Return an awaitable of the replies; the commands are sent at once if the connection is open."""
        ...


class DeferredCalls:
    """A block in an event loop that collects blocking calls, and makes them in other threads at its end.

    Missed deletes are written to a database, which would block the event loop. Only calls of the task
    that entered the block are collected: other threads, and tasks that outlive the block, make their
    calls at once.

    Attributes:
        calls: The collected calls, which ``make_calls`` makes; None: the block has ended.
    """

    __slots__ = ("_thread", "_token", "calls")
    _current: ContextVar[DeferredCalls | None] = ContextVar("deferred_calls", default=None)

    def __enter__(self) -> DeferredCalls:
        self._thread = threading.get_ident()
        self.calls: list[Callable[[], None]] | None = []
        self._token = self._current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._current.reset(self._token)
        self.calls = None

    async def make_calls(self) -> None:
        """Make the collected calls in other threads if these can start, and return when all have ended."""
        calls, self.calls = self.calls or [], None
        await asyncio.gather(*[call_in_thread(call) for call in calls])

    @classmethod
    def call(cls, function: Callable[[], None]) -> None:
        """Call a function: at the end of the current block, or at once if there is none."""
        block = cls._current.get()
        if block is None or block.calls is None or block._thread != threading.get_ident():
            function()
        else:
            block.calls.append(function)


def drive(operation: Operation[T], nodes: Sequence[NodePort], failed: FailedNodes | None = None) -> T:
    """Run an operation in the calling thread and return its result.

    Args:
        operation: The operation.
        nodes: The nodes.
        failed: The nodes that have failed in this operation already: they are sent nothing.
    """
    failed = {} if failed is None else failed
    try:
        effect = next(operation)
        while True:
            try:
                outcome = _perform(effect, nodes, failed)
            except BaseException as error:  # noqa: BLE001  # the operation handles it or raises it again
                effect = operation.throw(error)
            else:
                effect = operation.send(outcome)
    except StopIteration as end:
        result: T = end.value
        return result


async def adrive(operation: Operation[T], nodes: Sequence[NodePort]) -> T:
    """Run an operation in the running event loop and return its result."""
    failed: FailedNodes = {}
    with DeferredCalls() as deferred:
        try:
            effect = next(operation)
            while True:
                try:
                    outcome = await _aperform(effect, nodes, failed)
                except BaseException as error:  # noqa: BLE001  # the operation handles it or raises it again
                    effect = operation.throw(error)
                else:
                    effect = operation.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            if deferred.calls:
                await deferred.make_calls()


def _perform(effect: Effect, nodes: Sequence[NodePort], failed: FailedNodes) -> Any:
    if effect.__class__ is Send:  # the most frequent effect
        replies = _scatter(effect.requests, nodes, failed)
        if unknown := _unknown_scripts(effect.requests, replies):
            _replace(replies, unknown, _scatter(list(unknown.values()), nodes, failed))
        return replies
    match effect:
        case Sleep(seconds):
            return time.sleep(seconds)
        case Load(loader, tokens):
            return load(loader, tokens)
        case Ask(question):
            return question()


def load(loader: Callable[[], Any], tokens: tuple[bytes, ...]) -> Any:
    """Call a caller's loader under the leases with these tokens, and return its value."""
    with span("ringcache.load"), loader_block(tokens):
        return loader()


async def _aperform(effect: Effect, nodes: Sequence[NodePort], failed: FailedNodes) -> Any:
    if effect.__class__ is Send:  # the most frequent effect
        replies = await _ascatter(effect.requests, nodes, failed)
        if unknown := _unknown_scripts(effect.requests, replies):
            _replace(replies, unknown, await _ascatter(list(unknown.values()), nodes, failed))
        return replies
    match effect:
        case Sleep(seconds):
            return await asyncio.sleep(seconds)
        case Load(loader, tokens):
            with span("ringcache.load"), loader_block(tokens):
                value = loader()
                return await value if inspect.isawaitable(value) else value
        case Ask(_, async_question):
            return await async_question()


def _scatter(requests: Sequence[Request], nodes: Sequence[NodePort], failed: FailedNodes) -> list[Reply]:
    """Send every node its commands, then read every node's replies."""
    if len(requests) == 1:
        [(node, command)] = requests
        reply = nodes[node].call(command) if node not in failed else failed[node]
        note_failure(node, reply, failed)
        return [reply]
    groups = _by_node(requests)
    if len(groups) == 1 and not failed:
        [node] = groups
        replies = nodes[node].send([command for _, command in requests]).receive()
        note_failure(node, replies[-1], failed)
        return replies
    replies = _replies_of_failed(requests, groups, failed)
    pending: list[tuple[int, list[int], Pending]] = []
    try:
        for node, positions in groups.items():
            commands = [requests[position][1] for position in positions]
            pending.append((node, positions, nodes[node].send(commands)))
        while pending:
            node, positions, sent = pending.pop()
            for position, reply in zip(positions, sent.receive(), strict=True):
                replies[position] = reply
            note_failure(node, replies[positions[-1]], failed)
    finally:
        for _, _, sent in pending:
            sent.abandon()
    return replies


async def _ascatter(
    requests: Sequence[Request], nodes: Sequence[NodePort], failed: FailedNodes
) -> list[Reply]:
    groups = _by_node(requests)
    replies = _replies_of_failed(requests, groups, failed)
    sent = [
        nodes[node].submit([requests[position][1] for position in positions])
        for node, positions in groups.items()
    ]
    answers = [await sent[0]] if len(sent) == 1 else await asyncio.gather(*sent)
    for (node, positions), answer in zip(groups.items(), answers, strict=True):
        for position, reply in zip(positions, answer, strict=True):
            replies[position] = reply
        note_failure(node, answer[-1], failed)
    return replies


def _by_node(requests: Sequence[Request]) -> dict[int, list[int]]:
    """Return the positions of each node's requests."""
    groups: dict[int, list[int]] = {}
    for position, (node, _) in enumerate(requests):
        groups.setdefault(node, []).append(position)
    return groups


def _replies_of_failed(
    requests: Sequence[Request], groups: dict[int, list[int]], failed: FailedNodes
) -> list[Reply]:
    """Remove failed nodes from the groups; return all replies, of which only the failed nodes' are set."""
    replies: list[Reply] = [None] * len(requests)
    for node in failed.keys() & groups.keys() if failed else ():
        for position in groups.pop(node):
            replies[position] = failed[node]
    return replies


def note_failure(node: int, last: Reply, failed: FailedNodes) -> None:
    """Add a node that did not answer to the failed ones.

    A node that only refuses writes is not added; nor is one that has redirected the command to another one.
    """
    if last.__class__ is not NodeUnavailableError or last.is_elsewhere or not last.ejects:
        return
    if node not in failed:
        failed[node] = error = NodeUnavailableError(str(last))  # later commands are not sent: was_sent False
        error.__cause__ = last


def _unknown_scripts(requests: Sequence[Request], replies: Sequence[Reply]) -> dict[int, Request]:
    """Return position and request, with the source, of each script call whose node did not know the script.

    NOSCRIPT means that the node ran nothing, so a second call cannot run the script twice.
    """
    if NodeReplyError not in map(type, replies):  # in nearly all calls
        return {}
    return {
        position: (requests[position][0], command.with_source)
        for position, reply in enumerate(replies)
        if is_unknown_script(reply) and isinstance(command := requests[position][1], ScriptCall)
    }


def _replace(replies: list[Reply], positions: Iterable[int], new: list[Reply]) -> None:
    for position, reply in zip(positions, new, strict=True):
        replies[position] = reply
