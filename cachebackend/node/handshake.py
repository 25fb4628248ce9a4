"""Connections that redis-py has made ready: connected, authenticated, the database chosen."""

from __future__ import annotations

from typing import Any, TypeAlias

import redis.asyncio.connection
import redis.connection
import redis.lock
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachebackend.node.sentinels import Sentinels
from cachebackend.options import SENTINEL_SCHEME, sentinel_address

__all__ = ["CLIENT_NAME", "Handshake", "RedisClient", "RedisLock"]

RedisClient: TypeAlias = redis.Redis
RedisLock: TypeAlias = redis.lock.Lock

#: What ``CLIENT LIST`` shows of us.
CLIENT_NAME = "ringcache"


class Handshake:
    """How to connect to one node.

    Args:
        url: The node's URL, with its password.
        connect_timeout: Seconds until the connection must stand.
        socket_timeout: Seconds that each answer of the handshake may take.
    """

    def __init__(self, url: str, connect_timeout: float, socket_timeout: float) -> None:
        self._sentinels: Sentinels | None = None
        if url.startswith(f"{SENTINEL_SCHEME}:"):
            address = sentinel_address(url)
            self._sentinels = Sentinels(address, connect_timeout, socket_timeout)
            url = address.node_url
        self._given: dict[str, Any] = redis.connection.parse_url(url)  # type: ignore[no-untyped-call]
        self._class = self._given.pop("connection_class", redis.connection.Connection)
        self._given.update(
            socket_connect_timeout=connect_timeout,
            socket_timeout=socket_timeout,
            retry=Retry(NoBackoff(), 0),  # retrying is decided by who knows what was sent
            protocol=2,
            client_name=CLIENT_NAME,
            driver_info=None,
        )

    def connection(self) -> redis.connection.AbstractConnection:
        """Return a blocking connection, ready to use.

        Raises:
            OSError, redis.RedisError: It could not be made.
        """
        given = dict(self._given)
        if self._sentinels is not None:
            given["host"], given["port"] = self._sentinels.primary()
        connection: redis.connection.AbstractConnection = self._class(**given)
        connection.connect()  # type: ignore[no-untyped-call]
        return connection

    def client(self) -> RedisClient:
        """Return a redis-py client; behind Sentinel, of the node that is the primary now.

        Raises:
            redis.RedisError: No sentinel knows the primary.
        """
        given = dict(self._given)
        if self._sentinels is not None:
            given["host"], given["port"] = self._sentinels.primary()
        pool = redis.connection.ConnectionPool(self._class, max_connections=None, **given)
        return redis.Redis(connection_pool=pool)

    async def connection_async(self) -> redis.asyncio.connection.AbstractConnection:
        """Return a connection of the running event loop, ready to use.

        Raises:
            OSError, redis.RedisError: It could not be made.
        """
        twin = getattr(redis.asyncio.connection, self._class.__name__)
        given = dict(self._given, retry=redis.asyncio.retry.Retry(NoBackoff(), 0))
        if self._sentinels is not None:
            given["host"], given["port"] = await self._sentinels.primary_async()
        connection: Any = twin(**given)

        async def abort(*_: Any, **__: Any) -> None:
            """Drop it at once: to close TLS in order is to wait for a node that may answer nothing."""
            if connection._writer is not None:
                connection._writer.transport.abort()
            connection._reader = connection._writer = None

        connection.disconnect = abort
        try:
            await connection.connect()
        except BaseException:  # cancelled, too, of which redis-py closes nothing
            await abort()
            raise
        ready: redis.asyncio.connection.AbstractConnection = connection
        return ready
