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

#: Seconds idle after which a connection is checked before use, because the server may have closed it. No
#: server restarts in less time, so the first command after a restart is never sent to the old one.
CHECK_AFTER_SECONDS = 0.02
#: Seconds idle after which a connection is closed.
IDLE_SECONDS = 60.0
_READ_BYTES = 65_536


class Connection:
    """A connection that is ready for commands, and is written and read directly.

    The kernel measures the timeout (``SO_RCVTIMEO``), because a timeout of Python costs a ``poll`` for
    each call. A read that times out raises BlockingIOError. Under TLS and under gevent Python measures
    the timeout, and the read raises TimeoutError.
    """

    __slots__ = ("_feed", "_gets", "_recv", "_redis", "_sendall", "_socket", "idle_since")

    def __init__(self, handshake: Handshake, timeout: float) -> None:
        self._redis: Any = handshake.connection()
        # redis-py offers its socket only as a private attribute; its handshake is worth that
        sock: Any = self._redis._sock
        self._socket: socket.socket = sock
        # A TLS socket retries for ever when the kernel's timeout ends; gevent's never wait in the kernel
        if isinstance(sock, ssl.SSLSocket) or not os.get_blocking(sock.fileno()):
            sock.settimeout(timeout)
        else:
            _set_kernel_timeout(sock, timeout)
        reader = hiredis.Reader(replyError=reply_error)
        self._feed, self._gets = reader.feed, reader.gets
        self._recv, self._sendall = self._socket.recv, self._socket.sendall
        self.idle_since = 0.0

    def call(self, command: Command) -> Reply:
        """Send one command and return its reply; no other command may be in flight.

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
        """Send the commands.

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
        while reply is False:  # hiredis: the reply is not complete; RESP2 has no booleans
            data = self._recv(_READ_BYTES)
            if not data:
                message = "the node closed the connection"
                raise ConnectionResetError(message)
            self._feed(data)
            reply = self._gets()
        return reply

    @property
    def is_stale(self) -> bool:
        """True if there is something to read although no command is in flight: the end, or a stray reply."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLHUP | select.POLLERR)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close the connection; may be called twice."""
        self._redis.disconnect()


def _set_kernel_timeout(sock: socket.socket, timeout: float) -> None:
    sock.settimeout(None)
    interval = struct.pack("ll", int(timeout), int(timeout % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)


class BlockingPool:
    """The idle blocking connections to one node."""

    def __init__(self, handshake: Handshake, timeout: float, clock: Clock) -> None:
        self._handshake = handshake
        self._timeout = timeout
        self._clock = clock
        self._idle: deque[Connection] = deque()

    def take(self) -> Connection:
        """Return a connection that no other thread uses; the caller releases or closes it.

        Raises:
            OSError, redis.RedisError: No connection was idle, and a new one could not be made.
        """
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self.make()
            if (
                self._clock.monotonic() - connection.idle_since < CHECK_AFTER_SECONDS
                or not connection.is_stale
            ):
                return connection
            connection.close()

    def make(self) -> Connection:
        """Return a new connection.

        Raises:
            OSError, redis.RedisError: The connection could not be made.
        """
        return Connection(self._handshake, self._timeout)

    def release(self, connection: Connection) -> None:
        """Put back a connection of which every reply was read."""
        connection.idle_since = now = self._clock.monotonic()
        self._idle.append(connection)
        try:
            if self._idle[0].idle_since < now - IDLE_SECONDS:
                self._idle.popleft().close()
        except IndexError:  # another thread has taken the last one meanwhile
            return

    def close(self) -> None:
        """Close the idle connections: at the end, and after a failure, which has probably broken all."""
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return
