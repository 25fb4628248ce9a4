"""Blocking connections to a node, and the stack that idle ones wait on.

A connection is taken for one exchange and given back, last in first out, so a process
holds as many as it ever used at once, whatever its threads come and go like. Taking
and giving back are single steps of a deque: no lock.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis

from cachebackend.clock import Clock
from cachebackend.effects import Command, Reply
from cachebackend.node.handshake import Handshake
from cachebackend.node.translate import pack_command, reply_error

__all__ = ["BlockingPool", "Connection"]

#: The server may have closed a connection that was idle for longer; it is looked at before use.
LOOK_AFTER_SECONDS = 1.0
#: An idle connection is closed after this.
IDLE_SECONDS = 60.0
_READ_BYTES = 65_536


class Connection:
    """A ready connection, written and read directly.

    The kernel keeps the timeout (``SO_RCVTIMEO``): Python's own costs a ``poll`` for
    each call. A read that times out raises BlockingIOError; under TLS and under gevent,
    where Python keeps it, TimeoutError.
    """

    __slots__ = ("_feed", "_gets", "_recv", "_redis", "_sendall", "_socket", "idle_since")

    def __init__(self, handshake: Handshake, timeout: float) -> None:
        self._redis: Any = handshake.connection()
        # redis-py has no public way to its socket; the handshake is worth the private one
        held: Any = self._redis._sock
        self._socket: socket.socket = held
        # TLS would try again for ever when the kernel gives up; gevent's sockets never wait in it
        if isinstance(held, ssl.SSLSocket) or not os.get_blocking(held.fileno()):
            held.settimeout(timeout)
        else:
            _bound_by_kernel(held, timeout)
        reader = hiredis.Reader(replyError=reply_error)
        self._feed, self._gets = reader.feed, reader.gets
        self._recv, self._sendall = self._socket.recv, self._socket.sendall
        self.idle_since = 0.0

    def call(self, command: Command) -> Reply:
        """Write one command and return its reply; nothing else may be under way.

        Raises:
            OSError: The connection failed or the node took too long.
        """
        self._sendall(pack_command(command))
        if data := self._recv(_READ_BYTES):
            self._feed(data)
            if (reply := self._gets()) is not False:
                return reply
        return self.read()

    def send(self, commands: Sequence[Command]) -> None:
        """Write the commands.

        Raises:
            OSError: The connection failed.
        """
        if len(commands) == 1:
            self._sendall(pack_command(commands[0]))
        else:
            self._sendall(b"".join([pack_command(command) for command in commands]))

    def read(self) -> Reply:
        """Return the next reply.

        Raises:
            OSError: The connection failed or the node took too long.
        """
        reply = self._gets()
        while reply is False:  # hiredis: not whole yet; RESP2 has no booleans
            data = self._recv(_READ_BYTES)
            if not data:
                message = "the node closed the connection"
                raise ConnectionResetError(message)
            self._feed(data)
            reply = self._gets()
        return reply

    @property
    def is_stale(self) -> bool:
        """True if anything is to be read though nothing was asked: the end, or a stray answer."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLHUP | select.POLLERR)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close it; may be called twice."""
        self._redis.disconnect()


def _bound_by_kernel(held: socket.socket, timeout: float) -> None:
    held.settimeout(None)
    interval = struct.pack("ll", int(timeout), int(timeout % 1 * 1_000_000))
    held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)


class BlockingPool:
    """The idle connections to one node."""

    def __init__(self, handshake: Handshake, timeout: float, clock: Clock) -> None:
        self._handshake = handshake
        self._timeout = timeout
        self._clock = clock
        self._idle: deque[Connection] = deque()

    def take(self) -> Connection:
        """Return a connection that nobody else uses; the caller gives it back or closes it.

        Raises:
            OSError, redis.RedisError: None was idle, and a new one could not be made.
        """
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self.make()
            if (
                self._clock.monotonic() - connection.idle_since < LOOK_AFTER_SECONDS
                or not connection.is_stale
            ):
                return connection
            connection.close()

    def make(self) -> Connection:
        """Return a new connection.

        Raises:
            OSError, redis.RedisError: It could not be made.
        """
        return Connection(self._handshake, self._timeout)

    def release(self, connection: Connection) -> None:
        """Take back a connection on which every reply was read."""
        connection.idle_since = now = self._clock.monotonic()
        self._idle.append(connection)
        try:
            if self._idle[0].idle_since < now - IDLE_SECONDS:
                self._idle.popleft().close()
        except IndexError:  # another thread has taken the last one meanwhile
            return

    def close(self) -> None:
        """Close what is idle: at the end, and after a failure, which the others share."""
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return
