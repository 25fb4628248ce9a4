"""The lower bound: commands on a socket, with hiredis and nothing else."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import urlsplit

import hiredis

__all__ = ["BareSocket"]


class BareSocket:
    """A socket to a node that sends commands with hiredis.

    Args:
        url: The node's URL; of its query nothing is used.
    """

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        database = address.path.strip("/")
        self._socket = socket.create_connection((address.hostname, address.port or 6379))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        if address.password:
            self.call(b"AUTH", address.password.encode())
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
