"""A node: commands in, replies out, blocking or in asyncio, safe over threads, tasks, loops and forks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Sequence
from weakref import WeakSet

from cachebackend.clock import SYSTEM_CLOCK, Clock
from cachebackend.effects import Command, Reply
from cachebackend.errors import NodeUnavailableError
from cachebackend.node.blocking import BlockingPool, Connection
from cachebackend.node.handshake import Handshake
from cachebackend.node.loops import LoopConnections
from cachebackend.node.translate import CONNECTION_ERRORS, unavailable
from cachebackend.options import NodeAddress

__all__ = ["Node"]


class Node:
    """One server of a ring.

    Args:
        address: Its name and where it is.
        connect_timeout: Seconds until a connection must stand.
        socket_timeout: Seconds that an answer may take.
        clock: Where time is taken from.
    """

    def __init__(
        self, address: NodeAddress, connect_timeout: float, socket_timeout: float, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.address = address
        self.name = address.name
        self._timeout = socket_timeout
        handshake = Handshake(address.url, connect_timeout, socket_timeout)
        self._pool = BlockingPool(handshake, socket_timeout, clock)
        self._loops = LoopConnections(handshake, socket_timeout)
        _NODES.add(self)

    def call(self, command: Command) -> Reply:
        """Send one command and return its reply; a failure is returned in its place."""
        try:
            connection = self._pool.take()
        except CONNECTION_ERRORS as error:
            return self._failed(error)
        try:
            connection.send((command,))
            reply = connection.read()
        except CONNECTION_ERRORS as error:
            connection.close()
            return self._failed(error, was_sent=True)
        except BaseException:
            connection.close()
            raise
        self._pool.give_back(connection)
        return reply

    def send(self, commands: Sequence[Command]) -> PendingReplies:
        """Send commands; their replies are read from what is returned."""
        try:
            connection = self._pool.take()
        except CONNECTION_ERRORS as error:
            return PendingReplies(self, len(commands), None, self._failed(error))
        try:
            connection.send(commands)
        except CONNECTION_ERRORS as error:
            connection.close()
            return PendingReplies(self, len(commands), None, self._failed(error, was_sent=True))
        except BaseException:
            connection.close()
            raise
        return PendingReplies(self, len(commands), connection, None)

    def submit(self, commands: Sequence[Command]) -> Awaitable[list[Reply]]:
        """Send commands in the running event loop; at once where its connection stands."""
        connection = self._loops.standing()
        if connection is None:
            return self._open_and_submit(commands)
        return self._await(connection.submit(commands), len(commands))

    def close(self) -> None:
        """Close the idle blocking connections; those of an event loop end with their loop."""
        self._pool.close()

    def after_fork(self) -> None:
        """Let go of the parent's connections, in a forked child."""
        self._pool.close()
        self._loops.after_fork()

    async def _open_and_submit(self, commands: Sequence[Command]) -> list[Reply]:
        try:
            connection = await self._loops.open()
        except CONNECTION_ERRORS as error:
            return [self._failed(error)] * len(commands)
        return await self._await(connection.submit(commands), len(commands))

    async def _await(self, replies: asyncio.Future[list[Reply]], count: int) -> list[Reply]:
        try:
            return await replies
        except CONNECTION_ERRORS as error:
            return [self._failed(error, was_sent=True)] * count

    def _failed(self, error: BaseException, *, was_sent: bool = False) -> NodeUnavailableError:
        """Close the idle connections, which most likely failed with this one, and say what happened."""
        self._pool.close()
        failure = unavailable(self.name, error, self._timeout)
        failure.was_sent = was_sent
        return failure

    def __repr__(self) -> str:
        return f"Node({self.name!r})"


class PendingReplies:
    """Replies still to be read from a node."""

    __slots__ = ("_connection", "_count", "_error", "_node")

    def __init__(
        self, node: Node, count: int, connection: Connection | None, error: NodeUnavailableError | None
    ) -> None:
        self._node = node
        self._count = count
        self._connection = connection
        self._error = error

    def receive(self) -> list[Reply]:
        """Return a reply for each command; those that did not come are NodeUnavailableError."""
        if self._connection is None:
            return [self._error] * self._count
        replies: list[Reply] = []
        try:
            for _ in range(self._count):
                replies.append(self._connection.read())  # noqa: PERF401  # what was read before a failure counts
        except CONNECTION_ERRORS as error:
            self._connection.close()
            failure = self._node._failed(error, was_sent=True)  # its own other half
            return replies + [failure] * (self._count - len(replies))
        except BaseException:
            self._connection.close()
            raise
        self._node._pool.give_back(self._connection)  # its own other half
        return replies

    def abandon(self) -> None:
        """Close the connection, for its replies would be taken for the next user's."""
        if self._connection is not None:
            self._connection.close()


_NODES: WeakSet[Node] = WeakSet()


def _after_fork() -> None:
    for node in _NODES:
        node.after_fork()


os.register_at_fork(after_in_child=_after_fork)
