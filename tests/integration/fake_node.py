"""A server that speaks the handshake of a node, and then answers what a test wants."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

import hiredis

__all__ = ["NIL", "FakeNode", "bulk"]

#: The replies to a handshake, to redis-py's too, and to a probe.
_HANDSHAKE = {b"CLIENT": b"+OK\r\n", b"SELECT": b"+OK\r\n", b"HELLO": b"+OK\r\n", b"PING": b"+PONG\r\n"}
_RIGHTS = {b"EVALSHA": b"-NOSCRIPT none\r\n", b"SET": b"$-1\r\n"}
NIL = b"$-1\r\n"


def bulk(text: bytes) -> bytes:
    """Return a string as a node sends it."""
    return b"$%d\r\n%b\r\n" % (len(text), text)


class FakeNode:
    """A server on a free port; each connection has a thread, and commands that came together one reply.

    Attributes:
        answer: Returns the bytes that are sent for a command, valid or not; None: the connection is
            closed.
        handshake: As ``answer``, for the commands of the handshake; None: the replies of a real node.
        tracking: The open connections that have asked for invalidation messages.
        commands: Every command that was not part of a handshake.
    """

    def __init__(self) -> None:
        self.answer: Callable[[list[bytes]], bytes | None] = lambda _: NIL
        self.handshake: Callable[[list[bytes]], bytes | None] | None = None
        self.tracking: list[socket.socket] = []
        self.commands: list[list[bytes]] = []
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0?name=fake"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Close the server and its connections."""
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        reader = hiredis.Reader()
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(65_536):
                reader.feed(data)
                replies = b""
                while (command := reader.gets()) is not False:
                    reply = self._reply(connection, command)
                    if reply is None:
                        return
                    replies += reply
                connection.sendall(replies)

    def _reply(self, connection: socket.socket, command: list[bytes]) -> bytes | None:
        if command[:2] == [b"CLIENT", b"TRACKING"]:
            self.tracking.append(connection)
        known = _HANDSHAKE.get(command[0])
        if command[-1] == b"XX" or command[1:2] == [b"0" * 40]:
            known = _RIGHTS[command[0]]
        if known is not None:
            return known if self.handshake is None else self.handshake(command)
        self.commands.append(command)
        return self.answer(command)
