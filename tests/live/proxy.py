"""A way to a server that can be cut, in one direction or both, as networks are."""

from __future__ import annotations

import contextlib
import socket
import threading

__all__ = ["Proxy"]


class Proxy:
    """Carries bytes to a server on this machine and back, on a port of its own.

    What is held up while a direction is cut arrives when it is mended, as TCP has it: a
    request whose caller gave it up long ago, too.

    Args:
        port: The server's.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, port: int) -> None:
        self._server = port
        self._ways = {"requests": threading.Event(), "replies": threading.Event()}
        self.mend()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, way: str) -> None:
        """Hold up ``requests`` or ``replies``."""
        self._ways[way].clear()

    def mend(self) -> None:
        """Let all through again."""
        for way in self._ways.values():
            way.set()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", self._server))
            except OSError:
                client.close()
                continue
            for source, target, way in ((client, server, "requests"), (server, client, "replies")):
                threading.Thread(target=self._carry, args=(source, target, way), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self._ways[way].wait()
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
