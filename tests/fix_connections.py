"""Servers that need more than a plain socket: sentinels, TLS, a login."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
import trustme

from cacheproject.services import Services

#: Characters that a URL must encode, or at which a log line might be cut.
PASSWORD = "p@ss/w:rd?#%&+ é'"
QUOTED = "p%40ss%2Fw%3Ard%3F%23%25%26%2B%20%C3%A9%27"


class Guarded:
    """A node that requires a user and a password, on TCP, on IPv6 if available, and on a unix socket."""

    def __init__(self, services: Services) -> None:
        self.socket = str(services.folder / "guarded.sock")
        self.port = services.add_node(
            "guarded",
            *("--save", "", "--unixsocket", self.socket, "--bind", "127.0.0.1", "-::1"),
            *("--user", "default", "off"),
            *("--user", "admin", "on", ">admin", "~*", "&*", "+@all"),
            conf=f'user app on ">{PASSWORD}" ~* &* +@all\nuser reader on >reader ~* &* +@read +@connection\n',
        )

    def url(self, account: str = f"app:{QUOTED}", host: str = "127.0.0.1", database: int = 0) -> str:
        return f"redis://{account}@{host}:{self.port}/{database}?name=g"


class TLSTerminator:
    """A TLS proxy in front of a node, because the wheel's Valkey is built without TLS.

    Args:
        port: The port of the node.
        context: The certificate of the proxy, and the clients that it accepts.
    """

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._node = port
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            try:
                client = self._context.wrap_socket(plain, server_side=True)
            except (OSError, ssl.SSLError):
                plain.close()
                continue
            node = socket.create_connection(("127.0.0.1", self._node))
            self._ends += [client, node]
            # One thread for each connection: two threads must not use one TLS connection at the same time
            thread = threading.Thread(target=self._forward, args=(client, node))
            self._threads.append(thread)
            thread.start()

    def _forward(self, client: ssl.SSLSocket, node: socket.socket) -> None:
        import select

        with contextlib.suppress(OSError), client, node:
            while True:
                ready, _, _ = select.select([client, node], [], [])
                if client in ready:
                    if not (data := client.recv(65_536)):
                        return
                    node.sendall(data)
                if node in ready:
                    if not (data := node.recv(65_536)):
                        return
                    client.sendall(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


class Watched:
    """A primary, its replica, and three sentinels that watch them; all require passwords."""

    service = "shop"

    def __init__(self, services: Services) -> None:
        self.services = services
        login = ("--requirepass", "node-secret", "--masterauth", "node-secret", "--save", "")
        self.nodes = {"primary": services.add_node("primary", *login)}
        replica_of = ("--replicaof", f"127.0.0.1 {self.nodes['primary']}", "--repl-diskless-sync-delay", "0")
        self.nodes["replica"] = services.add_node("replica", *login, *replica_of)
        conf = (
            f"sentinel monitor {self.service} 127.0.0.1 {self.nodes['primary']} 2\n"
            f"sentinel auth-pass {self.service} node-secret\n"
            f"sentinel down-after-milliseconds {self.service} 400\n"
            f"sentinel failover-timeout {self.service} 3000\n"
            "requirepass sentinel-secret\nsentinel sentinel-pass sentinel-secret\n"
        )
        names = [f"sentinel-{letter}" for letter in "abc"]
        self.sentinels = [services.add_node(name, "--sentinel", conf=conf) for name in names]

    @property
    def url(self) -> str:
        # No sentinel listens at the first host, so the next one is asked
        hosts = ",".join(["127.0.0.1:1", *(f"127.0.0.1:{port}" for port in self.sentinels)])
        return f"redis+sentinel://:node-secret@{hosts}/{self.service}?sentinel_password=sentinel-secret"


@pytest.fixture(scope="session")
def own_services() -> Iterator[Services]:
    """Services without servers; tests add servers to them."""
    with Services(ring=0, queue=0, postgres=False) as services:
        yield services


@pytest.fixture(scope="session")
def guarded(own_services: Services) -> Guarded:
    return Guarded(own_services)


@pytest.fixture
def watched() -> Iterator[Watched]:
    """New servers for each test, because a failover cannot be undone."""
    with Services(ring=0, queue=0, postgres=False) as services:
        yield Watched(services)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority that only the test trusts."""
    return trustme.CA()
