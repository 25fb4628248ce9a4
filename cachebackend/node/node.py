"""A node: sends commands and returns replies, in blocking code and in asyncio.

Threads, tasks and event loops may share a node, and it works in a forked child.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakSet

from cachebackend.clock import SYSTEM_CLOCK, Clock
from cachebackend.effects import Command, Reply, is_promise
from cachebackend.errors import NodeUnavailableError
from cachebackend.interrupts import raise_interrupt
from cachebackend.node.blocking import BlockingPool, Connection
from cachebackend.node.endpoint import Locator
from cachebackend.node.handshake import Handshake
from cachebackend.node.loops import LoopConnections
from cachebackend.node.multiplexed import MultiplexedConnection
from cachebackend.node.probed import ProbedNode
from cachebackend.node.promises import PromiseWait
from cachebackend.node.translate import CONNECTION_ERRORS, MalformedReplyError, is_timeout, unavailable
from cachebackend.options import NodeAddress

if TYPE_CHECKING:
    from cachebackend.node.clients import RedisClient

__all__ = ["Node"]


class Node(ProbedNode):
    """One server of a ring.

    Args:
        address: Its name and URL.
        connect_timeout: The most seconds that connecting may take.
        socket_timeout: The most seconds that a reply may take.
        clock: The source of time.
        locator: Finds host and port of a server that may move; None: the URL has them, or names sentinels.
    """

    def __init__(
        self,
        address: NodeAddress,
        connect_timeout: float,
        socket_timeout: float,
        clock: Clock = SYSTEM_CLOCK,
        locator: Locator | None = None,
    ) -> None:
        self.handshake = handshake = Handshake(
            address.url, connect_timeout, socket_timeout, address.password, locator, name=address.name
        )
        super().__init__(address, BlockingPool(handshake, socket_timeout, clock), socket_timeout)
        #: Waits until replicas or disks have what the node has promised; None: it counts at once.
        self.promise_wait: PromiseWait | None = None
        self._loops = LoopConnections(handshake, socket_timeout)
        _NODES.add(self)

    def call(self, command: Command) -> Reply:
        """Send one command and return its reply; a failure is returned as the reply."""
        breaker = self.breaker
        if breaker is not None and breaker.is_open:
            return self._ejected_error()
        if self.promise_wait is not None and is_promise(command):
            return Node.send(self, [command]).receive()[0]
        try:
            connection = self._pool.take()
        except CONNECTION_ERRORS as error:
            raise_interrupt(error)
            return self._record_failure(error)
        try:
            reply = connection.call(command)
        except CONNECTION_ERRORS as error:
            connection.close()
            raise_interrupt(error)
            return self._record_failure(error, was_sent=True)
        except BaseException:
            connection.close()
            raise
        self._pool.release(connection)
        if breaker is not None and (breaker.has_failures or reply.__class__ is NodeUnavailableError):
            self._record_reply(reply)
        return reply

    def send(self, commands: Sequence[Command]) -> PendingReplies:
        """Send commands; ``receive`` of the result returns their replies."""
        if self.breaker is not None and self.breaker.is_open:
            return PendingReplies(self, commands, None, self._ejected_error())
        try:
            connection = self._pool.take()
        except CONNECTION_ERRORS as error:
            raise_interrupt(error)
            return PendingReplies(self, commands, None, self._record_failure(error))
        sent = commands if self.promise_wait is None else self.promise_wait.added(commands)
        try:
            connection.send(sent)
        except CONNECTION_ERRORS as error:
            connection.close()
            raise_interrupt(error)
            return PendingReplies(self, commands, None, self._record_failure(error, was_sent=True))
        except BaseException:
            connection.close()
            raise
        return PendingReplies(self, commands, connection, None, sent)

    def submit(self, commands: Sequence[Command]) -> Awaitable[list[Reply]]:
        """Return an awaitable of the replies; if the loop's connection is open, the commands are sent now."""
        ejected = self._ejected(commands)
        return self._received(self._start(commands), commands) if ejected is None else ejected

    def redis(self) -> RedisClient:
        """Return a new redis-py client; it connects when it is first used."""
        return self.handshake.client()

    def renew_connections(self) -> None:
        """Use new connections from now on; the present ones are closed when their replies have arrived."""
        self._pool.renew()
        self._loops.retire()

    def close(self) -> None:
        """Close idle blocking connections, and those of closed event loops; a running loop closes its own."""
        self._pool.close()
        self._loops.forget_closed_loops()

    def after_fork(self) -> None:
        """Stop using the parent's connections, in a forked child."""
        self._pool.close()
        self._loops.after_fork()
        if self.breaker is not None:
            self.breaker.after_fork()

    def _ejected(self, commands: Sequence[Command]) -> asyncio.Future[list[Reply]] | None:
        """Return the replies to commands of an ejected node; None: it is not ejected."""
        if self.breaker is None or not self.breaker.is_open:
            return None
        ejected: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        ejected.set_result([self._ejected_error()] * len(commands))
        return ejected

    def _start(self, commands: Sequence[Command]) -> asyncio.Future[list[Reply]] | None:
        """Send commands now, and return what ``_received`` awaits; None: the loop's connection is not open.

        It is not a coroutine, which a task that is cancelled before it runs would never await.
        """
        connection = self._loops.current()
        return None if connection is None else self._submit(connection, commands)

    def _submit(
        self, connection: MultiplexedConnection, commands: Sequence[Command]
    ) -> asyncio.Future[list[Reply]]:
        wait = self.promise_wait
        return connection.submit(commands if wait is None else wait.added(commands))

    async def _received(
        self, sent: asyncio.Future[list[Reply]] | None, commands: Sequence[Command]
    ) -> list[Reply]:
        """Return the replies to commands that ``_start`` has sent, or send them over a new connection."""
        if sent is None:
            try:
                connection = await self._loops.open()
            except CONNECTION_ERRORS as error:
                raise_interrupt(error)
                return [self._record_failure(error)] * len(commands)
            sent = self._submit(connection, commands)
        try:
            received = await sent
        except CONNECTION_ERRORS as error:
            raise_interrupt(error)
            return [self._record_failure(error, was_sent=True)] * len(commands)
        self._record_replies(received)
        return received if self.promise_wait is None else self.promise_wait.settled(commands, received)

    def _record_failure(self, error: BaseException, *, was_sent: bool = False) -> NodeUnavailableError:
        """Close the idle connections, which have probably failed too; return our error, and record it."""
        self._pool.close()
        failure = unavailable(self.name, error, self._timeout)
        failure.was_sent = was_sent
        if self.breaker is not None:
            is_refused = isinstance(error, ConnectionRefusedError)
            is_late = self.breaker.opens_on_timeout and is_timeout(error)
            self.breaker.failed(failure, at_once=is_refused or is_late)
        return failure

    def _record_replies(self, replies: Sequence[Reply]) -> None:
        breaker = self.breaker
        if breaker is not None and (breaker.has_failures or NodeUnavailableError in map(type, replies)):
            failure = next((reply for reply in replies if reply.__class__ is NodeUnavailableError), None)
            self._record_reply(failure)

    def __repr__(self) -> str:
        return f"Node({self.name!r})"


class PendingReplies:
    """The replies to commands that were sent to a node."""

    __slots__ = ("_commands", "_connection", "_error", "_node", "_sent")

    def __init__(
        self,
        node: Node,
        commands: Sequence[Command],
        connection: Connection | None,
        error: NodeUnavailableError | None,
        sent: Sequence[Command] = (),
    ) -> None:
        self._node = node
        self._sent = sent
        self._commands = commands
        self._connection = connection
        self._error = error

    def receive(self) -> list[Reply]:
        """Return the reply to each command; a reply that did not come is a NodeUnavailableError."""
        if self._connection is None:
            return [self._error] * len(self._commands)
        replies: list[Reply] = []
        try:
            for reply in self._connection.replies(self._sent):
                replies.append(reply)  # noqa: PERF402  # replies before a failure are kept
        except CONNECTION_ERRORS as error:
            self._connection.close()
            raise_interrupt(error)
            if isinstance(error, MalformedReplyError):
                replies.clear()  # they may be replies to other commands
            failure = self._node._record_failure(error, was_sent=True)  # both classes are one unit
            return self._settled([*replies, *[failure] * len(self._sent)][: len(self._sent)])
        except BaseException:
            self._connection.close()
            raise
        self._node._pool.release(self._connection)  # both classes are one unit
        self._node._record_replies(replies)  # both classes are one unit
        return self._settled(replies)

    def _settled(self, replies: list[Reply]) -> list[Reply]:
        wait = self._node.promise_wait
        return replies if wait is None else wait.settled(self._commands, replies)

    def abandon(self) -> None:
        """Close the connection: its replies would be read as the replies to the next commands."""
        if self._connection is not None:
            self._connection.close()


_NODES: WeakSet[Node] = WeakSet()


def _after_fork() -> None:
    for node in _NODES:
        node.after_fork()


os.register_at_fork(after_in_child=_after_fork)
