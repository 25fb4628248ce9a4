"""Where a node listens, and how a connection to it is opened: TCP, TLS, or a unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from cachebackend.imports import import_at_first_use
from cachebackend.interrupts import raise_interrupt
from cachebackend.options import SENTINEL_SCHEME, host_text, is_host, sentinel_address
from cachebackend.threads import is_thread_refused

__all__ = ["Address", "Endpoint", "Locator"]

P = TypeVar("P", bound=asyncio.Protocol)
_VERIFIES = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_FALSE = frozenset({"false", "False", "no", "0"})


class _Socket(socket.socket):
    """A socket that is closed, without a warning, when nothing refers to it any more.

    An exception that a signal handler raises can make a socket unreachable in any place.
    """

    __del__ = socket.socket.close


class _TLSSocket(ssl.SSLSocket):
    """The same, with TLS."""

    __del__ = socket.socket.close


class Locator(Protocol):
    """Finds the present primary of a node whose primary changes; it is asked for each new connection."""

    def primary(self) -> tuple[str, int]:
        """Return host and port.

        Raises:
            OSError: The primary is not known.
        """
        ...

    async def primary_async(self) -> tuple[str, int]:
        """Return host and port, in the running event loop; raises as ``primary`` does."""
        ...


class Address(NamedTuple):
    """An address that another server has named. It is not put into a URL: it may be any text and number."""

    host: str
    port: int

    def primary(self) -> tuple[str, int]:
        """Return host and port."""
        return self

    async def primary_async(self) -> tuple[str, int]:
        """Return host and port."""
        return self


class Endpoint:
    """The server of one node, its database, and the login that its URL has.

    Args:
        url: The node's URL, which ``options`` has checked.
        connect_timeout: The most seconds that connecting may take.
        socket_timeout: The most seconds that a sentinel's reply may take.
        locator: Finds host and port; None: the URL has them, or names sentinels.
    """

    def __init__(
        self, url: str, connect_timeout: float, socket_timeout: float, locator: Locator | None = None
    ) -> None:
        self._connect_timeout = connect_timeout
        self._locator = locator
        if url.startswith(f"{SENTINEL_SCHEME}:"):
            sentinels = import_at_first_use("cachebackend.node.sentinels")  # it imports redis-py
            address = sentinel_address(url)
            self._locator = sentinels.Sentinels(address, connect_timeout, socket_timeout)
            url = address.node_url
        parts = urlsplit(url)
        #: The URL that redis-py understands; its host means nothing if there is a locator.
        self.url = url
        self.username = unquote(parts.username) if parts.username else None
        self.password = unquote(parts.password) if parts.password else None
        self._query = dict(parse_qsl(parts.query))
        self._path = unquote(parts.path) if parts.scheme == "unix" else None
        self._host, self._port = unquote(parts.hostname or ""), parts.port or 6379
        path_database = "" if self._path is not None else parts.path.strip("/")
        self.database = int(self._query.get("db") or path_database or 0)
        self._is_tls = parts.scheme == "rediss"

    def connect(self) -> socket.socket:
        """Return a connected socket; under TLS, its certificate was verified.

        Raises:
            OSError: The connection could not be opened in time.
        """
        if self._path is not None:
            return _connected(socket.AF_UNIX, self._path, self._connect_timeout)
        host, port = self.address()
        with _naming(host):
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        sock = self._connect_to_one([(family, address) for family, *_, address in found])
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._tls().wrap_socket(sock, server_hostname=host) if self._is_tls else sock

    def _connect_to_one(self, addresses: list[tuple[int, Any]]) -> socket.socket:
        """Return a socket that is connected to the first address that accepts it."""
        for number, (family, address) in enumerate(addresses, 1):
            try:
                return _connected(family, address, self._connect_timeout)
            except OSError as error:
                raise_interrupt(error)
                if number == len(addresses):
                    raise
        message = "the host has no address"
        raise ConnectionError(message)

    async def connect_async(self, protocol: Callable[[], P]) -> P:
        """Return the protocol of a new connection in the running event loop.

        Raises:
            OSError: The connection could not be opened in time.
        """
        loop = asyncio.get_running_loop()
        host, port = ("", 0) if self._path is not None else await self._address_async()
        try:
            with _naming(host):
                async with asyncio.timeout(self._connect_timeout):
                    if self._path is not None:
                        return (await loop.create_unix_connection(protocol, self._path))[1]
                    tls = self._tls() if self._is_tls else None
                    return (await loop.create_connection(protocol, host, port, ssl=tls))[1]
        except RuntimeError as error:
            raise_interrupt(error)
            if not is_thread_refused(error):
                raise
            raise ConnectionError(str(error)) from error  # in asyncio a thread looks up the host

    def address(self) -> tuple[str, int]:
        """Return host and port; behind Sentinel and in a cluster, those of the present primary.

        Raises:
            OSError: The primary is not known, or has an address that none can be reached at.
        """
        return (self._host, self._port) if self._locator is None else _checked(*self._locator.primary())

    async def _address_async(self) -> tuple[str, int]:
        if self._locator is None:
            return self._host, self._port
        return _checked(*await self._locator.primary_async())

    @property
    def may_move(self) -> bool:
        """Whether the address may change."""
        return self._locator is not None

    def _tls(self) -> ssl.SSLContext:
        """Return the settings of TLS. The files are read for each connection: certificates are renewed."""
        given = self._query
        context = ssl.create_default_context(
            cafile=given.get("ssl_ca_certs"), capath=given.get("ssl_ca_path")
        )
        verifies = _VERIFIES[given.get("ssl_cert_reqs", "required")]
        is_named = given.get("ssl_check_hostname", "true") not in _FALSE
        context.sslsocket_class = _TLSSocket
        context.check_hostname = is_named and verifies is not ssl.CERT_NONE
        context.verify_mode = verifies
        key = given.get("ssl_keyfile")
        if certificate := given.get("ssl_certfile") or key:
            context.load_cert_chain(certificate, key, given.get("ssl_password"))
        return context


def _checked(host: str, port: int) -> tuple[str, int]:
    """Return an address that another server has named.

    Raises:
        ConnectionError: It would make ``getaddrinfo`` or ``connect`` raise another error.
    """
    if not (is_host(host) and 0 < port < 65_536):
        message = f"{host_text(host, port)!r} cannot be the address of a server"
        raise ConnectionError(message)
    return host, port


def _connected(family: int, address: Any, timeout: float) -> socket.socket:
    sock = _Socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _naming(host: str) -> Iterator[None]:
    """Raise the error for a host that cannot be looked up with its name."""
    try:
        yield
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"{error.strerror}: {host}") from error
