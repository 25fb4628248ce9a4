"""How a connection to a node is set up, according to its URL."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis.connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, NoScriptError

from cachebackend.node.handshake import CLIENT_NAME, Handshake, _refuse_without_scripts
from cachebackend.node.sentinels import Sentinels
from tests.threadless import threadless


def pool_of(url: str) -> Any:
    return Handshake(url, 0.1, 0.2).client().connection_pool


def test_the_url_names_server_login_and_database() -> None:
    """Decoded; the timeouts are the caller's."""
    kwargs = pool_of("redis://me:p%40ss@h:7/3").connection_kwargs
    assert (kwargs["host"], kwargs["port"], kwargs["db"]) == ("h", 7, 3)
    assert kwargs["credential_provider"].get_credentials() == ("me", "p@ss")
    assert (kwargs["socket_connect_timeout"], kwargs["socket_timeout"]) == (0.1, 0.2)
    assert kwargs["client_name"] == CLIENT_NAME


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


@pytest.mark.parametrize("may_run_scripts", [True, False])
@pytest.mark.parametrize("may_write", [True, False])
def test_a_user_that_may_write_must_be_allowed_to_run_scripts(may_run_scripts: bool, may_write: bool) -> None:
    """Any other error, such as that of an unknown script, says that the command is allowed."""
    denied = NoPermissionError("this user has no permissions")
    replies = [NoScriptError() if may_run_scripts else denied, None if may_write else denied]
    if may_write and not may_run_scripts:
        with pytest.raises(NoPermissionError):
            _refuse_without_scripts(replies)
    else:
        _refuse_without_scripts(replies)


def test_redis_py_packs_commands_without_hiredis() -> None:
    """They may hold numbers, and a signal handler that raises while hiredis formats one ends the process."""
    packer = pool_of("redis://h/3").connection_kwargs["command_packer"]
    assert isinstance(packer, redis.connection.PythonRespSerializer)
    assert b"".join(packer.pack("SELECT", 3)) == b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n"


def test_redis_py_retries_no_command() -> None:
    """Only the caller knows whether a command may be sent twice."""
    assert pool_of("redis://h").connection_kwargs["retry"].get_retries() == 0


def test_behind_sentinel_the_address_is_asked_for_with_every_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The URL gives the login and the database of the primary, and no address."""
    primaries = iter([("one", 6380), ("two", 6381)])
    monkeypatch.setattr(Sentinels, "primary", lambda _: next(primaries))
    handshake = Handshake("redis+sentinel://:secret@s1,s2:9/shop/2", 0.1, 0.2)
    for host in ("one", "two"):
        kwargs = handshake.client().connection_pool.connection_kwargs
        assert (kwargs["host"], kwargs["db"]) == (host, 2)
        assert kwargs["credential_provider"].get_credentials() == ("secret",)


def test_a_host_that_cannot_be_looked_up_without_threads_is_a_failed_connection() -> None:
    """In asyncio another thread looks it up. The caller gets no RuntimeError."""

    async def connect() -> None:
        with threadless():
            await Handshake("redis://localhost:1", 0.1, 0.2).connection_async()

    with pytest.raises(RedisConnectionError, match="can't start new thread"):
        asyncio.run(connect())
