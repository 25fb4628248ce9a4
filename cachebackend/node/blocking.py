"""Blocking connections to a node, and the pool of idle ones.

A thread takes a connection from the pool for one exchange and puts it back; the last one in is the
first one out. So a process opens as many connections as it uses at the same time, however many
threads it starts and ends. Taking and putting back are atomic operations of a deque, without a lock.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

from cachebackend.clock import Clock
from cachebackend.effects import Command, Reply
from cachebackend.interrupts import raise_interrupt
from cachebackend.node.arriving import Arriving
from cachebackend.node.handshake import Handshake
from cachebackend.node.pace import Pace
from cachebackend.node.translate import (
    INCOMPLETE,
    LISTS,
    UNREADABLE,
    MalformedReplyError,
    NodeClosedError,
    check_reply_bytes,
    make_reader,
    misfit,
    pack_command,
    surplus,
)
from cachebackend.replies import TEXT_COMMANDS, fits

__all__ = ["BlockingPool", "Connection"]

#: Seconds since its last use began after which a connection is checked before use, because the server may
#: have closed it. No server restarts in less time, so the first command after a restart is never sent to the
#: old one.
CHECK_AFTER_SECONDS = 0.02
#: Seconds since its last use began after which an idle connection is closed.
IDLE_SECONDS = 60.0
_READ_BYTES = 65_536


class Connection:
    """A connection that is ready for commands, and is written and read directly.

    A read that takes longer than the timeout, and replies that come too slowly (see ``pace``), raise
    TimeoutError.
    """

    __slots__ = (
        "_arriving",
        "_feed",
        "_gets",
        "_has_data",
        "_poll",
        "_recv",
        "_send_now",
        "_sendall",
        "_socket",
        "_timeout",
        "generation",
        "taken_at",
    )

    def __init__(self, handshake: Handshake, timeout: float) -> None:
        self._socket = sock = handshake.connect()
        sock.settimeout(timeout)
        self._timeout = timeout
        reader = make_reader(handshake.name)
        self._feed, self._gets, self._has_data = reader.feed, reader.gets, reader.has_data
        self._arriving = Arriving()
        self._recv, self._sendall = self._socket.recv, self._socket.sendall
        # A socket with a timeout polls before each send, although it nearly always has room
        is_plain = isinstance(sock, socket.socket) and not isinstance(sock, ssl.SSLSocket)
        self._send_now = partial(os.write, sock.fileno()) if is_plain else sock.send
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN | select.POLLHUP | select.POLLERR)
        #: When a thread last took it from the pool.
        self.taken_at = 0.0
        #: The generation of its pool's connections that it belongs to.
        self.generation = 0
        try:
            handshake.perform(self._exchange)
        except BaseException:
            self.close()
            raise

    def _exchange(self, commands: Sequence[Command]) -> Iterator[Reply]:
        self.send(commands)
        yield from self.replies(commands)
        if self.is_stale:
            raise surplus()

    def call(self, command: Command) -> Reply:
        """Send one command and return its reply; no other command may be in flight.

        Raises:
            OSError: The connection failed, the node took too long, or sent no reply to this command.
        """
        self._write(pack_command(command))
        reply = INCOMPLETE
        if data := self._recv(_READ_BYTES):
            if data[0] in LISTS:
                self._arriving.check(data, (command,))
            try:
                self._feed(data)
                reply = self._gets()
            except UNREADABLE as error:
                raise_interrupt(error)
                raise MalformedReplyError(repr(error)) from error
        if reply is INCOMPLETE:
            if data and data[0] not in LISTS:
                self._arriving.check(data, (command,))
            reply = self.read(command)
        elif data[0] in LISTS:
            self._arriving.end()
        # A hit is checked here, because a call of a function takes longer than the check
        if not ((reply.__class__ is bytes and command[0] in TEXT_COMMANDS) or fits(command, reply)):
            raise misfit(command)
        if self._has_data():
            raise surplus()
        return reply

    def send(self, commands: Sequence[Command]) -> None:
        """Send the commands.

        Raises:
            OSError: The connection failed.
        """
        self._write(b"".join([pack_command(command) for command in commands]))

    def _write(self, packed: bytes) -> None:
        """Send bytes; wait, up to the timeout, only for those that the socket has no room for."""
        try:
            sent = self._send_now(packed)
        except BlockingIOError:
            sent = 0
        if sent != len(packed):
            self._sendall(memoryview(packed)[sent:])

    def replies(self, commands: Sequence[Command]) -> Iterator[Reply]:
        """Yield the reply to each command that was sent.

        Raises:
            MalformedReplyError: The node sent a reply that does not fit its command, or too many of them.
                The replies before may belong to other commands, too.
            OSError: The connection failed or the node took too long.
        """
        pace, read = Pace(self._timeout), 0
        while read < len(commands):
            found = [self.read(commands[read], pace, commands)]
            if self._has_data():
                found += self._arrived(len(commands) - read - 1)
            for command, reply in zip(commands[read:], found, strict=False):
                if not ((reply.__class__ is bytes and command[0] in TEXT_COMMANDS) or fits(command, reply)):
                    raise misfit(command)
                yield reply
            pace.completed(len(found))
            read += len(found)
        if self._has_data():
            raise surplus()

    def _arrived(self, most: int) -> list[Reply]:
        """Return the replies, at most ``most``, that have arrived completely with the one that was read last.

        The parser says whether it has data only between replies: it may keep the first line of one elsewhere.

        Raises:
            MalformedReplyError: The node sent no reply.
        """
        found: list[Reply] = []
        try:
            while len(found) < most and self._has_data():
                reply = self._gets()
                if reply is INCOMPLETE:
                    return found
                found.append(reply)
        except UNREADABLE as error:
            raise_interrupt(error)
            raise MalformedReplyError(repr(error)) from error
        self._end_reply()
        return found

    def read(self, command: Command, pace: Pace | None = None, commands: Sequence[Command] = ()) -> Reply:
        """Return the next reply, of any shape; ``command`` bounds its length.

        Args:
            command: The command.
            pace: The pace of the exchange that the reply is part of; None: it is an exchange of its own.
            commands: The commands of that exchange, whose replies may arrive together.

        Raises:
            MalformedReplyError: The node sent no reply, or one that is too long.
            OSError: The connection failed or the node took too long.
        """
        received = 0
        if pace is None:
            pace = Pace(self._timeout)
        try:
            while (reply := self._gets()) is INCOMPLETE:
                data = self._recv(_READ_BYTES)
                if not data:
                    raise NodeClosedError
                self._arriving.check(data, commands or (command,))
                received += len(data)
                check_reply_bytes(received, command)
                self._feed(data)
                pace.received(len(data))  # last: who reads on after a TimeoutError must not miss bytes
        except UNREADABLE as error:
            raise_interrupt(error)
            raise MalformedReplyError(repr(error)) from error
        self._end_reply()
        return reply

    def _end_reply(self) -> None:
        """Record that a reply was read, and whether more has arrived with it."""
        if self._has_data():
            self._arriving.more()
        else:
            self._arriving.end()

    @property
    def is_stale(self) -> bool:
        """True if there is something to read although no command is in flight: the end, or a stray reply."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        """Close the connection; may be called twice."""
        self._socket.close()


class BlockingPool:
    """The idle blocking connections to one node."""

    def __init__(self, handshake: Handshake, timeout: float, clock: Clock) -> None:
        self._handshake = handshake
        self._timeout = timeout
        self._monotonic = clock.monotonic
        self._idle: deque[Connection] = deque()
        self._generation = 0

    def take(self) -> Connection:
        """Return a connection that no other thread uses; the caller releases or closes it.

        Raises:
            OSError: No connection was idle, and a new one could not be made.
        """
        while True:
            try:
                connection = self._idle.pop()
            except IndexError as error:
                raise_interrupt(error)
                return self.make()
            now = self._monotonic()
            if now - connection.taken_at < CHECK_AFTER_SECONDS or not connection.is_stale:
                connection.taken_at = now
                return connection
            connection.close()

    def make(self) -> Connection:
        """Return a new connection.

        Raises:
            OSError: The connection could not be made.
        """
        generation = self._generation  # before the address is looked up: it may change meanwhile
        connection = Connection(self._handshake, self._timeout)
        connection.generation = generation
        connection.taken_at = self._monotonic()
        return connection

    def release(self, connection: Connection) -> None:
        """Put back a connection of which every reply was read."""
        if connection.generation != self._generation:
            connection.close()
            return
        idle = self._idle
        idle.append(connection)
        try:
            if idle[0].taken_at < connection.taken_at - IDLE_SECONDS:
                idle.popleft().close()
        except IndexError as error:  # another thread has taken the last one meanwhile
            raise_interrupt(error)
            return

    def release_or_close(self, connection: Connection) -> None:
        """Put back a connection that was made for one use, or close it if another one is idle."""
        if self._idle:
            connection.close()
        else:
            self.release(connection)

    def renew(self) -> None:
        """Use new connections from now on; those in use are closed when they are released."""
        self._generation += 1
        self.close()

    def close(self) -> None:
        """Close the idle connections: at the end, and after a failure, which has probably broken all."""
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError as error:
                raise_interrupt(error)
                return
