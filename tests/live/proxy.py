"""A proxy to a server that can be cut off, in one direction or both, as networks can."""

from __future__ import annotations

import contextlib
import socket
import threading

__all__ = ["Proxy"]


class Proxy:
    """Forwards bytes to a server on this machine and back, on its own port.

    Bytes that are sent while a direction is cut arrive when it is mended, as with TCP: even a
    request whose caller gave up long ago.

    Args:
        port: The server's port.

    Attributes:
        port: The port that it listens on.
    """

    def __init__(self, port: int) -> None:
        self._server = port
        self._directions = {"requests": threading.Event(), "replies": threading.Event()}
        self.mend()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, direction: str) -> None:
        """Hold back ``requests`` or ``replies``."""
        self._directions[direction].clear()

    def mend(self) -> None:
        """Forward both again."""
        for direction in self._directions.values():
            direction.set()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", self._server))
            except OSError:
                client.close()
                continue
            for source, target, direction in ((client, server, "requests"), (server, client, "replies")):
                threading.Thread(target=self._forward, args=(source, target, direction), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self._directions[direction].wait()
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
