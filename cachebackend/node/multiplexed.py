"""The asyncio connection to a node, which all tasks of an event loop share (pipelining).

The replies come back in the order of the commands. So a hundred tasks need one connection. If no command
is in flight, a batch is written at once; the batches after it are written together, at the end of the
loop's turn. If a task is cancelled, the replies to its batch are read and thrown away, and every other
batch gets its own replies.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from cachebackend.effects import Command, Reply
from cachebackend.interrupts import raise_interrupt
from cachebackend.node.arriving import Arriving
from cachebackend.node.handshake import Handshake
from cachebackend.node.pace import REPLY_BYTES, allowed_seconds
from cachebackend.node.translate import (
    INCOMPLETE,
    UNREADABLE,
    MalformedReplyError,
    NodeClosedError,
    check_reply_bytes,
    make_reader,
    misfit,
    pack_command,
    surplus,
)
from cachebackend.replies import fits

__all__ = ["MultiplexedConnection"]

#: Seconds in which the event loop reads the bytes that have arrived at its sockets.
_GRACE_SECONDS = 0.01


class _Batch:
    """Commands in flight: the future of their replies, and the replies read so far."""

    __slots__ = ("commands", "future", "replies")

    def __init__(self, future: asyncio.Future[list[Reply]], commands: Sequence[Command]) -> None:
        self.future = future
        self.commands = commands
        self.replies: list[Reply] = []


class MultiplexedConnection(asyncio.Protocol):
    """A connection that is ready for commands; ``open`` makes one.

    There is one timer for the connection, not one for each batch. It watches the first batch in flight. If
    for ``timeout`` seconds nothing was sent and the replies to this batch come too slowly (see ``pace``),
    all batches fail and the connection is closed.
    """

    def __init__(self, timeout: float, name: str = "") -> None:
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._in_flight: deque[_Batch] = deque()
        #: The commands of batches in flight that are written at the end of this turn of the loop.
        self._unwritten: list[bytes] = []
        self._reader = make_reader(name)
        self._arriving = Arriving()
        #: Bytes received since the last reply that was complete.
        self._unread_bytes = 0
        #: When the first batch in flight became the first, or got its first bytes; and what has come of its
        #: replies since (see ``pace``).
        self._begun_at = 0.0
        self._received = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sent_at = 0.0
        self._unsent_bytes = 0
        self._is_in_grace = False
        self.is_closed = False
        self._is_retired = False

    @classmethod
    async def open(cls, handshake: Handshake, timeout: float) -> MultiplexedConnection:
        """Connect in the running event loop.

        Raises:
            OSError: The connection could not be made.
        """
        connection = await handshake.connect_async(partial(cls, timeout, handshake.name))
        try:
            await handshake.perform_async(connection.submit)
        except BaseException:  # a cancellation too
            connection.close()
            raise
        return connection

    def connection_made(self, transport: Any) -> None:
        """Write to this transport."""
        self._transport: asyncio.Transport = transport

    def submit(self, commands: Sequence[Command]) -> asyncio.Future[list[Reply]]:
        """Send the commands and return the future of their replies."""
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        if self.is_closed:
            future.set_exception(ConnectionResetError("the connection is closed"))
            return future
        packed = b"".join([pack_command(command) for command in commands])
        now = self._loop.time()
        # The commands that are written and the batches in flight must be the same ones: else a batch would
        # get the replies to another one. So the connection is closed if a signal handler raises in between
        try:
            if not self._in_flight:
                self._write(packed, now)
                self._begin(now)
            else:
                if not self._unwritten:
                    self._loop.call_soon(self._write_rest)
                self._unwritten.append(packed)
            self._in_flight.append(_Batch(future, commands))
        except BaseException as error:
            self._interrupted(error)
            raise
        if self._timer is None:
            self._timer = self._loop.call_at(now + self._timeout, self._check_timeout)
        return future

    def _write(self, packed: bytes, now: float) -> None:
        self._note_sent(now)
        self._transport.write(packed)
        self._unsent_bytes = self._transport.get_write_buffer_size()

    def _write_rest(self) -> None:
        """Write the commands of this turn of the loop; none are left if the connection has failed."""
        if self._unwritten:
            try:
                self._write(b"".join(self._unwritten), self._loop.time())
                self._unwritten.clear()
            except BaseException as error:
                self._interrupted(error)
                raise

    def data_received(self, data: bytes) -> None:
        """Add each complete reply to its batch; after bytes that are not replies, fail all batches."""
        try:
            self._read(data)
        except MalformedReplyError as error:
            self._fail(error)
        except BaseException as error:  # a reply may have been read and be in no batch yet
            self._interrupted(error)
            raise

    def _read(self, data: bytes) -> None:
        try:
            self._read_replies(data)
        except UNREADABLE as error:
            raise_interrupt(error)
            raise MalformedReplyError(repr(error)) from error

    def _read_replies(self, data: bytes) -> None:
        if self._in_flight:
            self._arriving.check(data, (command for batch in self._in_flight for command in batch.commands))
        gets, now = self._reader.gets, self._loop.time()
        if not self._received:
            self._begun_at = now
        self._received += len(data)
        self._unread_bytes += len(data)
        self._reader.feed(data)
        while self._in_flight:
            batch = self._in_flight[0]
            commands, replies = batch.commands, batch.replies
            while len(replies) < len(commands):
                command, reply = commands[len(replies)], gets()
                if reply is INCOMPLETE:
                    check_reply_bytes(self._unread_bytes, command)
                    return
                self._unread_bytes = 0
                if self._reader.has_data():
                    self._arriving.more()
                else:
                    self._arriving.end()
                self._received += REPLY_BYTES
                if not fits(command, reply):
                    raise misfit(command)
                replies.append(reply)
            if len(self._in_flight) == 1 and self._reader.has_data():
                break  # the replies may belong to other commands
            self._in_flight.popleft()
            self._begin(now)
            if not batch.future.done():
                batch.future.set_result(replies)
        if self._reader.has_data():
            raise surplus()
        if self._is_retired:
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail all batches in flight."""
        self._fail(error or NodeClosedError())

    def forget(self) -> None:
        """Close the socket of a connection whose event loop is closed, so that the loop cannot close it."""
        self.is_closed = True
        transport: Any = self._transport
        sock = getattr(transport.get_extra_info("socket"), "_sock", None)
        if sock is None:  # not a loop of asyncio's own; such a loop closes its sockets with itself
            return
        sock.close()
        # so that the transport does not warn that it was not closed
        transport._sock = None
        transport._closing = transport._closed = True

    @property
    def is_usable(self) -> bool:
        """Whether it takes new commands."""
        return not (self.is_closed or self._is_retired)

    def retire(self) -> None:
        """Take no new commands, and close the connection when all replies have arrived."""
        self._is_retired = True
        if not self._in_flight:
            self.close()

    def close(self) -> None:
        """Close the connection and fail all batches in flight; may be called twice."""
        self._fail(ConnectionResetError("the connection is closed"))

    def _interrupted(self, error: BaseException) -> None:
        """Fail all batches in flight with the error of a signal handler.

        asyncio only logs an error that a callback raises, so the tasks must get it: else a time limit would
        have no effect, and would count as a failure of the node. An error that is not an Exception ends the
        loop.
        """
        if isinstance(error, Exception):
            self._fail(error)
        else:
            self.close()

    def _check_timeout(self) -> None:
        try:
            self._time_out()
        except BaseException as error:  # the timer may be gone
            self._interrupted(error)
            raise

    def _time_out(self) -> None:
        """Fail all batches in flight if the first one is due, else set the timer again."""
        self._timer = None
        if not self._in_flight:
            return
        now = self._loop.time()
        self._note_sent(now)
        due = max(self._begun_at, self._sent_at) + allowed_seconds(self._received, self._timeout)
        if due > now:
            self._is_in_grace = False
            self._timer = self._loop.call_at(due, self._check_timeout)
        elif not self._is_in_grace:
            # The loop itself may have been busy: let it read first what has arrived meanwhile
            self._is_in_grace = True
            self._timer = self._loop.call_later(_GRACE_SECONDS, self._check_timeout)
        else:
            self._fail(TimeoutError())

    def _begin(self, now: float) -> None:
        """Record that another batch is the first in flight."""
        self._begun_at = now
        self._received = 0

    def _note_sent(self, now: float) -> None:
        """Record the time if bytes were sent since the last call."""
        if self._unsent_bytes:
            unsent = self._transport.get_write_buffer_size()
            if unsent < self._unsent_bytes:
                self._sent_at = now
            self._unsent_bytes = unsent

    def _fail(self, error: Exception) -> None:
        self.is_closed = True
        self._unwritten.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._transport.is_closing():
            self._transport.abort()
        while self._in_flight:
            future = self._in_flight.popleft().future
            if not future.done():
                future.set_exception(error)
