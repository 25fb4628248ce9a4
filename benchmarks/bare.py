"""The floor: commands on a socket, with hiredis and nothing else."""

from __future__ import annotations

import socket
from typing import Any

import hiredis

__all__ = ["BareSocket"]


class BareSocket:
    """Commands on a socket with hiredis, and nothing else.

    Args:
        url: The node's; of what follows its port only the database counts.
    """

    def __init__(self, url: str) -> None:
        place, _, database = url.removeprefix("redis://").partition("?")[0].partition("/")
        host, _, port = place.partition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        if database not in {"", "0"}:
            self.call(b"SELECT", database.encode())

    def call(self, *command: bytes) -> Any:
        """Send a command and return its reply."""
        self._socket.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub knows one argument
        reply = self._reader.gets()
        while reply is False:
            self._reader.feed(self._socket.recv(65536))
            reply = self._reader.gets()
        return reply
