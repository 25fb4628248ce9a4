"""The handshake: redis-py connects, authenticates and selects the database; then the rights are checked.

Every delete is a script, and a fill is not. A user that may write but not run scripts could fill values
that it could never delete, so its connection is refused. A user that may only read is not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import redis.asyncio.connection
import redis.connection
import redis.exceptions
import redis.lock
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachebackend.node.login import Login, remove_frames
from cachebackend.node.sentinels import Sentinels
from cachebackend.node.translate import readable, surplus
from cachebackend.options import SENTINEL_SCHEME, Password, sentinel_address

__all__ = ["CLIENT_NAME", "Handshake", "RedisClient", "RedisLock"]

RedisClient: TypeAlias = redis.Redis
RedisLock: TypeAlias = redis.lock.Lock

#: The name of our connections in ``CLIENT LIST``.
CLIENT_NAME = "ringcache"
#: redis-py packs a command of fewer bytes in one piece.
_PACKED_BYTES = 6000
#: Asks whether the user may run scripts, and whether it may write; both commands change nothing.
_RIGHTS = (("EVALSHA", "0" * 40, "0"), ("SET", "ringcache:rights", "", "XX"))


class Handshake:
    """Makes connections to one node.

    Args:
        url: The node's URL.
        connect_timeout: The most seconds that connecting may take.
        socket_timeout: The most seconds that each reply of the handshake may take.
        password: The password, or a function that returns it, if the URL has none.
    """

    def __init__(
        self, url: str, connect_timeout: float, socket_timeout: float, password: Password | None = None
    ) -> None:
        self._sentinels: Sentinels | None = None
        if url.startswith(f"{SENTINEL_SCHEME}:"):
            address = sentinel_address(url)
            self._sentinels = Sentinels(address, connect_timeout, socket_timeout)
            url = address.node_url
        self._arguments: dict[str, Any] = redis.connection.parse_url(url)  # type: ignore[no-untyped-call]
        self._class = self._arguments.pop("connection_class", redis.connection.Connection)
        encoder = redis.connection.Encoder("utf-8", "strict", False)  # type: ignore[attr-defined, no-untyped-call]
        #: Packs redis-py's own commands, which hold numbers: hiredis must not (see ``effects.Argument``).
        self._packer = redis.connection.PythonRespSerializer(_PACKED_BYTES, encoder.encode)
        username = self._arguments.pop("username", None)
        password = self._arguments.pop("password", None) or password
        if username or password:
            self._arguments["credential_provider"] = Login(username, password or "")
        self._arguments.update(
            socket_connect_timeout=connect_timeout,
            socket_timeout=socket_timeout,
            retry=Retry(NoBackoff(), 0),  # a caller that knows what was sent decides about retries
            protocol=2,
            client_name=CLIENT_NAME,
            driver_info=None,
        )

    def connection(self) -> redis.connection.AbstractConnection:
        """Return a blocking connection, ready to use.

        Raises:
            OSError, redis.RedisError: The connection could not be made.
        """
        handled = sys.exception()
        try:
            return self._connected()
        except BaseException as error:  # noqa: BLE001  # it is raised again
            raise remove_frames(error, handled)  # noqa: B904  # it is the same error

    def _connected(self) -> redis.connection.AbstractConnection:
        connection: redis.connection.AbstractConnection = self._class(**self._with_address())
        try:
            with readable():
                connection.connect()  # type: ignore[no-untyped-call]
                connection.send_packed_command(connection.pack_commands(_RIGHTS))  # type: ignore[no-untyped-call]
                _refuse_without_scripts([_reply_or_error(connection.read_response) for _ in _RIGHTS])
                if connection.can_read(0):
                    raise surplus()
        except BaseException:
            connection.disconnect()  # type: ignore[no-untyped-call]
            raise
        return connection

    def client(self) -> RedisClient:
        """Return a redis-py client; behind Sentinel it is a client of the present primary.

        Raises:
            redis.RedisError: No sentinel knows the primary.
        """
        pool = redis.connection.ConnectionPool(self._class, max_connections=None, **self._with_address())
        return redis.Redis(connection_pool=pool)

    def _with_address(self) -> dict[str, Any]:
        """Return redis-py's arguments; behind Sentinel, with the address of the present primary."""
        arguments = self._arguments | {"command_packer": self._packer}
        if self._sentinels is None:
            return arguments
        host, port = self._sentinels.primary()
        return arguments | {"host": host, "port": port}

    async def connection_async(self) -> redis.asyncio.connection.AbstractConnection:
        """Return a connection of the running event loop, ready to use.

        Raises:
            OSError, redis.RedisError: The connection could not be made.
        """
        handled = sys.exception()
        try:
            return await self._connected_async()
        except BaseException as error:  # noqa: BLE001  # it is raised again
            raise remove_frames(error, handled)  # noqa: B904  # it is the same error

    async def _connected_async(self) -> redis.asyncio.connection.AbstractConnection:
        async_class = getattr(redis.asyncio.connection, self._class.__name__)
        arguments = dict(self._arguments, retry=redis.asyncio.retry.Retry(NoBackoff(), 0))
        if self._sentinels is not None:
            arguments["host"], arguments["port"] = await self._sentinels.primary_async()
        connection: Any = async_class(**arguments)

        async def abort(*_: Any, **__: Any) -> None:
            """Close the socket at once: closing TLS in order waits for a node that may never answer."""
            if connection._writer is not None:
                connection._writer.transport.abort()
            connection._reader = connection._writer = None

        connection.disconnect = abort
        try:
            with readable():
                await connection.connect()
                await connection.send_packed_command(connection.pack_commands(_RIGHTS))
                replies: list[Any] = []
                for _ in _RIGHTS:
                    try:
                        replies.append(await connection.read_response())
                    except redis.exceptions.ResponseError as error:
                        replies.append(error)
                _refuse_without_scripts(replies)
                # before redis-py 8 it has another name
                can_read = getattr(connection, "can_read", None) or connection.can_read_destructive
                if await can_read():
                    raise surplus()
        except BaseException:  # a cancellation too, after which redis-py closes nothing
            await abort()
            raise
        ready: redis.asyncio.connection.AbstractConnection = connection
        return ready


def _reply_or_error(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except redis.exceptions.ResponseError as error:
        return error


def _is_refused(reply: Any) -> bool:
    """Return whether a reply refuses the command, not only the key: the user may write other keys."""
    return isinstance(reply, redis.exceptions.NoPermissionError) and "permissions to access" not in str(reply)


def _refuse_without_scripts(replies: Sequence[Any]) -> None:
    """Refuse a user that may write but not run scripts, given the replies to ``_RIGHTS``.

    Raises:
        redis.exceptions.NoPermissionError: The user's rights are not enough.
    """
    may_run_scripts, may_write = (not _is_refused(reply) for reply in replies)
    if may_write and not may_run_scripts:
        message = "the user may not run scripts"
        raise redis.exceptions.NoPermissionError(message)
