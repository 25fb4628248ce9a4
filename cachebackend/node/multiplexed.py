"""One asyncio connection to a node, shared by all tasks of an event loop.

Every batch is written at once and its replies come back in order, so a hundred tasks
need one connection and their requests travel together. A task that is cancelled leaves
its future cancelled; its replies are read and dropped, and nobody else's are moved.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis

from cachebackend.effects import Command, Reply
from cachebackend.node.handshake import Handshake
from cachebackend.node.translate import pack_command, reply_error

__all__ = ["MultiplexedConnection"]

#: Enough for the event loop to read what stands in its sockets.
_SECOND_LOOK_SECONDS = 0.01


class _Batch:
    """Commands in flight: the future of their replies, those read, and when they were sent."""

    __slots__ = ("count", "future", "replies", "sent_at")

    def __init__(self, future: asyncio.Future[list[Reply]], count: int, sent_at: float) -> None:
        self.future = future
        self.count = count
        self.replies: list[Reply] = []
        self.sent_at = sent_at


class MultiplexedConnection(asyncio.Protocol):
    """A ready connection; made by ``open``.

    One timer for the connection, not one for each request: when nothing has come or gone
    for the timeout though a batch is in flight, it fails them all and closes the
    connection.
    """

    def __init__(self, writer: asyncio.StreamWriter, timeout: float) -> None:
        # Kept though only its transport is used: it closes that when it is collected
        self._writer = writer
        self._transport = writer.transport
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._in_flight: deque[_Batch] = deque()
        self._reader = hiredis.Reader(replyError=reply_error)
        self._timer: asyncio.TimerHandle | None = None
        self._moved_at = 0.0
        self._unsent_bytes = 0
        self._is_suspect = False
        self.is_closed = False

    @classmethod
    async def open(cls, handshake: Handshake, timeout: float) -> MultiplexedConnection:
        """Connect in the running event loop.

        Raises:
            OSError, redis.RedisError: The connection could not be made.
        """
        ready = await handshake.connection_async()
        # redis-py's connection was made for its transport, whose protocol we become
        writer: Any = ready._writer
        ready._reader = ready._writer = None
        connection = cls(writer, timeout)
        writer.transport.set_protocol(connection)
        return connection

    def submit(self, commands: Sequence[Command]) -> asyncio.Future[list[Reply]]:
        """Write the commands and return the future of their replies."""
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        if self.is_closed:
            future.set_exception(ConnectionResetError("the connection is closed"))
            return future
        # Packed first: a command that cannot be packed must not leave a batch that waits
        # for replies, or it would be given everybody else's
        packed = b"".join([pack_command(command) for command in commands])
        now = self._loop.time()
        self._note_sending(now)
        self._in_flight.append(_Batch(future, len(commands), now))
        self._transport.write(packed)
        self._unsent_bytes = self._transport.get_write_buffer_size()
        if self._timer is None:
            self._timer = self._loop.call_at(now + self._timeout, self._look_at_oldest)
        return future

    def data_received(self, data: bytes) -> None:
        """Hand each whole reply to the batch it belongs to."""
        self._moved_at = self._loop.time()
        self._reader.feed(data)
        while self._in_flight:
            batch = self._in_flight[0]
            while len(batch.replies) < batch.count:
                reply = self._reader.gets()
                if reply is False:  # hiredis: not whole yet
                    return
                batch.replies.append(reply)
            self._in_flight.popleft()
            if not batch.future.done():
                batch.future.set_result(batch.replies)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail everything in flight."""
        self._fail(error or ConnectionResetError("the node closed the connection"))

    def forget(self) -> None:
        """Close the socket of a connection whose event loop is closed, and can close nothing itself."""
        self.is_closed = True
        transport: Any = self._transport
        held = getattr(transport.get_extra_info("socket"), "_sock", None)
        if held is None:  # no loop of asyncio's own: such closes what it has when it is closed
            return
        held.close()
        # so that neither it nor the writer warns of what was just done
        transport._sock = None
        transport._closing = transport._closed = True

    def close(self) -> None:
        """Close it, failing what is in flight; may be called twice."""
        self._fail(ConnectionResetError("the connection is closed"))

    def _look_at_oldest(self) -> None:
        self._timer = None
        if not self._in_flight:
            return
        self._note_sending(self._loop.time())
        due = max(self._in_flight[0].sent_at, self._moved_at) + self._timeout
        if due > self._loop.time():
            self._is_suspect = False
            self._timer = self._loop.call_at(due, self._look_at_oldest)
        elif not self._is_suspect:
            # The loop may have been busy itself: what has come meanwhile is read first
            self._is_suspect = True
            self._timer = self._loop.call_later(_SECOND_LOOK_SECONDS, self._look_at_oldest)
        else:
            self._fail(TimeoutError())

    def _note_sending(self, now: float) -> None:
        """Take what left for the node since it was last looked at for a sign of life."""
        if self._unsent_bytes:
            unsent = self._transport.get_write_buffer_size()
            if unsent < self._unsent_bytes:
                self._moved_at = now
            self._unsent_bytes = unsent

    def _fail(self, error: Exception) -> None:
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._transport.is_closing():
            self._transport.abort()
        while self._in_flight:
            future = self._in_flight.popleft().future
            if not future.done():
                future.set_exception(error)
