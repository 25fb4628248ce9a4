"""redis-py's client of a node: for locks, for MONITOR, and for commands of the project's own.

Nothing imports this module before it needs a client: importing redis-py takes longer than all of this
package.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeAlias

import redis
import redis.connection
import redis.exceptions
import redis.lock
from redis.backoff import NoBackoff
from redis.retry import Retry

from cachebackend.node.endpoint import Endpoint
from cachebackend.node.login import Login
from cachebackend.node.translate import HandshakeError

__all__ = ["RedisClient", "RedisLock", "client_of", "with_own_errors"]

RedisClient: TypeAlias = redis.Redis
RedisLock: TypeAlias = redis.lock.Lock

#: redis-py packs a command of fewer bytes in one piece.
_PACKED_BYTES = 6000


class _Pool(redis.connection.ConnectionPool):
    """A pool of connections whose commands redis-py packs itself.

    They hold numbers, and hiredis must not format them (see ``effects.Argument``).
    """

    def __init__(self, **arguments: Any) -> None:
        encoder = redis.connection.Encoder("utf-8", "strict", False)  # type: ignore[attr-defined, no-untyped-call]
        packer = redis.connection.PythonRespSerializer(_PACKED_BYTES, encoder.encode)
        super().__init__(command_packer=packer, **arguments)


def client_of(
    endpoint: Endpoint, login: Login | None, connect_timeout: float, socket_timeout: float
) -> RedisClient:
    """Return a client of the server and database of an endpoint; it connects when it is first used.

    Raises:
        OSError: No sentinel knows the primary.
    """
    arguments: dict[str, Any] = redis.connection.parse_url(endpoint.url)  # type: ignore[no-untyped-call]
    kind = arguments.pop("connection_class", redis.connection.Connection)
    arguments.pop("username", None)
    arguments.pop("password", None)
    if login is not None:
        arguments["credential_provider"] = login
    if endpoint.may_move:
        arguments["host"], arguments["port"] = endpoint.address()
    pool = _Pool(
        connection_class=kind,
        max_connections=None,
        socket_connect_timeout=connect_timeout,
        socket_timeout=socket_timeout,
        retry=Retry(NoBackoff(), 0),  # a caller that knows what was sent decides about retries
        protocol=2,
        driver_info=None,
        **arguments,
    )
    return redis.Redis(connection_pool=pool)


@contextlib.contextmanager
def with_own_errors() -> Iterator[None]:
    """Raise the errors of redis-py's connections as our own connections do, but not its error replies."""
    try:
        yield
    except redis.exceptions.TimeoutError as error:
        raise TimeoutError(str(error)) from error
    except redis.exceptions.AuthenticationError as error:
        message = "refused the user or password"
        raise HandshakeError(message) from error
    except redis.exceptions.ConnectionError as error:
        raise ConnectionError(str(error)) from error
