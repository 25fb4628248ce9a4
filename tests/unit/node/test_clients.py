"""The client of redis-py for a node."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import redis.connection
import redis.exceptions

from cachebackend.node.clients import with_own_errors
from cachebackend.node.handshake import Handshake
from cachebackend.node.sentinels import Sentinels
from cachebackend.node.translate import HandshakeError


def pool_of(url: str) -> Any:
    return Handshake(url, 0.1, 0.2).client().connection_pool


def test_the_url_names_server_login_and_database() -> None:
    """Decoded; the timeouts are the caller's."""
    kwargs = pool_of("redis://me:p%40ss@h:7/3").connection_kwargs
    assert (kwargs["host"], kwargs["port"], kwargs["db"]) == ("h", 7, 3)
    assert kwargs["credential_provider"].get_credentials() == ("me", "p@ss")
    assert (kwargs["socket_connect_timeout"], kwargs["socket_timeout"]) == (0.1, 0.2)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://h", redis.connection.Connection),
        ("rediss://h", redis.connection.SSLConnection),
        ("unix:///run/valkey.sock", redis.connection.UnixDomainSocketConnection),
    ],
)
def test_the_scheme_chooses_the_kind_of_connection(url: str, kind: type) -> None:
    """Plain, TLS, or a unix socket."""
    assert pool_of(url).connection_class is kind


def test_redis_py_packs_commands_without_hiredis() -> None:
    """They may hold numbers, and a signal handler that raises while hiredis formats one ends the process."""
    packer = pool_of("redis://h/3").connection_kwargs["command_packer"]
    assert isinstance(packer, redis.connection.PythonRespSerializer)
    assert b"".join(packer.pack("SELECT", 3)) == b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n"


def test_redis_py_retries_no_command() -> None:
    """Only the caller knows whether a command may be sent twice."""
    assert pool_of("redis://h").connection_kwargs["retry"].get_retries() == 0


def test_behind_sentinel_a_client_has_the_address_of_the_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the time when the client is made."""
    monkeypatch.setattr(Sentinels, "primary", lambda _: ("one", 6380))
    kwargs = pool_of("redis+sentinel://:secret@s1,s2:9/shop/2").connection_kwargs
    assert (kwargs["host"], kwargs["db"]) == ("one", 2)
    assert kwargs["credential_provider"].get_credentials() == ("secret",)


def test_redis_py_is_not_imported_before_a_client_is_needed() -> None:
    """Importing it takes longer than importing this package, and a cache does not need it."""
    code = (
        "import sys; import cachebackend.backend; from cachebackend.node import Node; "
        "assert 'redis' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("error", "own"),
    [
        (redis.exceptions.TimeoutError("Timeout"), TimeoutError),
        (redis.exceptions.AuthenticationError("WRONGPASS"), HandshakeError),
        (redis.exceptions.ConnectionError("Error 111"), ConnectionError),
        (redis.exceptions.ResponseError("ERR"), redis.exceptions.ResponseError),
    ],
)
def test_the_errors_of_its_connections_are_those_of_ours(error: Exception, own: type) -> None:
    """Its error replies stay as they are: their readers know what they have sent."""
    with pytest.raises(own), with_own_errors():
        raise error
