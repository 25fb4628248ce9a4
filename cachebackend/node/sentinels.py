"""The address of a service's primary, which the sentinels are asked for at every new connection.

Nothing imports this module before an alias has such a service, because it imports redis-py.
"""

from __future__ import annotations

import sys
from typing import Any

import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.exceptions
import redis.sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachebackend.interrupts import raise_interrupt
from cachebackend.node.login import Login, remove_frames
from cachebackend.node.translate import MalformedReplyError, readable
from cachebackend.options import SentinelAddress

__all__ = ["Sentinels"]

#: redis-py has this error twice.
_NOT_FOUND = (redis.sentinel.MasterNotFoundError, redis.asyncio.sentinel.MasterNotFoundError)


class Sentinels:
    """The sentinels of one service; the one that answered last is asked first.

    An open connection is not checked for a failover: Sentinel closes the connections of clients to a
    primary that it demotes, and their next connections lead to the new primary.

    Args:
        address: The addresses of the sentinels, and the service.
        connect_timeout: The most seconds that connecting to a sentinel may take.
        socket_timeout: The most seconds that a sentinel's reply may take.
    """

    def __init__(self, address: SentinelAddress, connect_timeout: float, socket_timeout: float) -> None:
        self._service = address.service
        self._hosts = list(address.hosts)
        self._arguments: dict[str, Any] = {
            "socket_connect_timeout": connect_timeout,
            "socket_timeout": socket_timeout,
            "protocol": 2,
        }
        if address.username or address.password:
            self._arguments["credential_provider"] = Login(address.username, address.password or "")

    def primary(self) -> tuple[str, int]:
        """Return host and port of the primary.

        Raises:
            OSError: No sentinel that answers knows the primary, or one of them sent something else.
        """
        handled = sys.exception()
        try:
            return self._ask()
        except BaseException as error:  # noqa: BLE001  # it is raised again
            raise remove_frames(error, handled)  # noqa: B904  # it is the same error

    def _ask(self) -> tuple[str, int]:
        arguments = dict(self._arguments, retry=Retry(NoBackoff(), 0))
        sentinel = redis.sentinel.Sentinel(self._hosts, sentinel_kwargs=arguments)  # type: ignore[no-untyped-call]
        try:
            with readable():
                host, port = sentinel.discover_master(self._service)  # type: ignore[no-untyped-call]
            self._prefer(sentinel.sentinels[0])
        except _NOT_FOUND as error:
            raise self._unknown() from error
        except MalformedReplyError:
            self._ask_another()
            raise
        except redis.exceptions.RedisError as error:
            raise_interrupt(error)
            raise ConnectionError(str(error)) from error
        finally:
            for each in sentinel.sentinels:
                each.close()
        return host, port

    async def primary_async(self) -> tuple[str, int]:
        """Return host and port of the primary.

        Raises:
            OSError: No sentinel that answers knows the primary, or one of them sent something else.
        """
        handled = sys.exception()
        try:
            return await self._ask_async()
        except BaseException as error:  # noqa: BLE001  # it is raised again
            raise remove_frames(error, handled)  # noqa: B904  # it is the same error

    async def _ask_async(self) -> tuple[str, int]:
        arguments = dict(self._arguments, retry=redis.asyncio.retry.Retry(NoBackoff(), 0))
        sentinel = redis.asyncio.sentinel.Sentinel(  # type: ignore[no-untyped-call]
            self._hosts, sentinel_kwargs=arguments
        )
        try:
            with readable():
                host, port = await sentinel.discover_master(self._service)
            self._prefer(sentinel.sentinels[0])
        except _NOT_FOUND as error:
            raise self._unknown() from error
        except MalformedReplyError:
            self._ask_another()
            raise
        except redis.exceptions.RedisError as error:
            raise_interrupt(error)
            raise ConnectionError(str(error)) from error
        finally:
            for each in sentinel.sentinels:
                await each.aclose()
        return host, port

    def _ask_another(self) -> None:
        """Ask the other sentinels first next time: redis-py asks none after a reply that it cannot read."""
        self._hosts.append(self._hosts.pop(0))

    def _prefer(self, answered: Any) -> None:
        arguments = answered.connection_pool.connection_kwargs
        first = (arguments["host"], arguments["port"])
        self._hosts = sorted(self._hosts, key=lambda host: host != first)

    def _unknown(self) -> ConnectionError:
        hosts = ", ".join(f"{host}:{port}" for host, port in self._hosts)
        return ConnectionError(f"none of the sentinels {hosts} knows a primary named {self._service!r}")
