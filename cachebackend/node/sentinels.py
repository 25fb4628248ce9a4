"""Where the primary of a service is: asked of its sentinels for every new connection."""

from __future__ import annotations

from typing import Any

import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachebackend.options import SentinelAddress

__all__ = ["Sentinels"]

#: redis-py has two of them.
_NOT_FOUND = (redis.sentinel.MasterNotFoundError, redis.asyncio.sentinel.MasterNotFoundError)


class Sentinels:
    """The sentinels of one service; the one that answered last is asked first.

    A connection that stands is not looked after: who demotes a primary ends its clients'
    connections, and what they do next finds the new one.

    Args:
        address: Where they are, and the service.
        connect_timeout: Seconds until a connection to one must stand.
        socket_timeout: Seconds that its answer may take.
    """

    def __init__(self, address: SentinelAddress, connect_timeout: float, socket_timeout: float) -> None:
        self._service = address.service
        self._hosts = list(address.hosts)
        self._given: dict[str, Any] = {
            "username": address.username,
            "password": address.password,
            "socket_connect_timeout": connect_timeout,
            "socket_timeout": socket_timeout,
            "protocol": 2,
        }

    def primary(self) -> tuple[str, int]:
        """Return where the primary is.

        Raises:
            redis.RedisError: No sentinel that answers knows.
        """
        given = dict(self._given, retry=Retry(NoBackoff(), 0))
        asked = redis.sentinel.Sentinel(self._hosts, sentinel_kwargs=given)  # type: ignore[no-untyped-call]
        try:
            host, port = asked.discover_master(self._service)  # type: ignore[no-untyped-call]
            self._prefer(asked.sentinels[0])
        except _NOT_FOUND as error:
            raise self._unknown() from error
        finally:
            for each in asked.sentinels:
                each.close()
        return host, port

    async def primary_async(self) -> tuple[str, int]:
        """Return where the primary is; raises as ``primary`` does."""
        given = dict(self._given, retry=redis.asyncio.retry.Retry(NoBackoff(), 0))
        asked = redis.asyncio.sentinel.Sentinel(self._hosts, sentinel_kwargs=given)  # type: ignore[no-untyped-call]
        try:
            host, port = await asked.discover_master(self._service)
            self._prefer(asked.sentinels[0])
        except _NOT_FOUND as error:
            raise self._unknown() from error
        finally:
            for each in asked.sentinels:
                await each.aclose()
        return host, port

    def _prefer(self, answered: Any) -> None:
        given = answered.connection_pool.connection_kwargs
        first = (given["host"], given["port"])
        self._hosts = sorted(self._hosts, key=lambda host: host != first)

    def _unknown(self) -> redis.ConnectionError:
        hosts = ", ".join(f"{host}:{port}" for host, port in self._hosts)
        return redis.ConnectionError(f"no sentinel of {hosts} knows a primary named {self._service!r}")
