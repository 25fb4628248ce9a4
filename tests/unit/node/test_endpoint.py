"""Where a URL leads."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from cachebackend.node.endpoint import Address, Endpoint
from cachebackend.node.sentinels import Sentinels
from tests.threadless import threadless


def endpoint_of(url: str) -> Endpoint:
    return Endpoint(url, 2.0, 2.0)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://h", (("h", 6379), None, None, 0)),
        ("redis://me:p%40ss@h:7/3", (("h", 7), "me", "p@ss", 3)),
        ("rediss://:secret@[::1]:7?db=4", (("::1", 7), None, "secret", 4)),
    ],
)
def test_a_url_names_server_login_and_database(url: str, found: object) -> None:
    """Decoded; what it does not name is as Redis has it."""
    endpoint = endpoint_of(url)
    assert (endpoint.address(), endpoint.username, endpoint.password, endpoint.database) == found


def test_a_unix_socket_is_connected_to(tmp_path: Path) -> None:
    """Its path is percent-encoded in the URL. The same in an event loop."""
    path = tmp_path / "a node"
    endpoint = endpoint_of(f"unix://{tmp_path}/a%20node")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with endpoint.connect() as sock:
            assert sock.getpeername() == str(path)

        async def connect() -> str:
            protocol = await endpoint.connect_async(Peer)
            return protocol.path

        assert asyncio.run(connect()) == str(path)


class Peer(asyncio.Protocol):
    """Notes to what it is connected, and closes the connection."""

    path = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.path = transport.get_extra_info("peername")
        transport.close()


def test_a_socket_that_cannot_be_connected_is_closed(tmp_path: Path) -> None:
    """An open one would warn, and fail the test."""
    with pytest.raises(FileNotFoundError):
        endpoint_of(f"unix://{tmp_path}/absent").connect()


def test_behind_sentinel_the_address_is_asked_for_with_every_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The URL gives the login and the database of the primary, and no address."""
    primaries = iter([("one", 6380), ("two", 6381)])
    monkeypatch.setattr(Sentinels, "primary", lambda _: next(primaries))
    endpoint = endpoint_of("redis+sentinel://:secret@s1,s2:9/shop/2")
    assert [endpoint.address(), endpoint.address()] == [("one", 6380), ("two", 6381)]
    assert (endpoint.password, endpoint.database) == ("secret", 2)


def test_a_host_that_cannot_be_looked_up_without_threads_is_a_failed_connection() -> None:
    """In asyncio another thread looks it up. The caller gets no RuntimeError."""

    async def connect() -> None:
        with threadless():
            await endpoint_of("redis://localhost:1").connect_async(Peer)

    with pytest.raises(ConnectionError, match="can't start new thread"):
        asyncio.run(connect())


@pytest.mark.parametrize("address", [("a\0b", 1), ("..", 1), ("h", 0), ("h", 65_536), ("h", -1)])
def test_an_address_that_cannot_be_one_is_a_failed_connection(address: tuple[str, int]) -> None:
    """Another server has named it. The same in an event loop."""
    endpoint = Endpoint("redis://h", 2.0, 2.0, Address(*address))
    with pytest.raises(ConnectionError, match="cannot be the address of a server"):
        endpoint.connect()
    with pytest.raises(ConnectionError, match="cannot be the address of a server"):
        asyncio.run(endpoint.connect_async(asyncio.Protocol))
