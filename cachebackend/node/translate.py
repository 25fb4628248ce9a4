"""Commands to the wire, and the errors of sockets, redis-py and servers to ours."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

import hiredis
import redis.exceptions

from cachebackend.effects import Command
from cachebackend.errors import NodeReplyError, NodeUnavailableError, RingCacheError

__all__ = ["CONNECTION_ERRORS", "pack_command", "reply_error", "unavailable"]

#: The bytes of a command; hiredis' stub knows tuples of one argument only.
pack_command: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]

#: What a connection that fails raises, whether redis-py or the socket noticed.
CONNECTION_ERRORS = (OSError, redis.exceptions.RedisError)

#: What an answer that does not come raises: the kernel's timeout, Python's, the same under TLS, redis-py's.
_TIMEOUTS = (BlockingIOError, TimeoutError, ssl.SSLWantReadError, redis.exceptions.TimeoutError)

#: Answers that say the node cannot serve now, whoever asks whatever.
_CANNOT_SERVE = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOAUTH", "NOREPLICAS", "OOM", "READONLY"}
)

#: Those of them that concern writes only.
_SERVES_READS = frozenset({"MISCONF", "NOREPLICAS", "OOM", "READONLY"})


def reply_error(text: str) -> RingCacheError:
    """Return the error that a node's error answer stands for."""
    code = text.partition(" ")[0]
    if code in _CANNOT_SERVE:
        error = NodeUnavailableError(f"the node cannot serve: {text}")
        error.ejects = code not in _SERVES_READS
        return error
    return NodeReplyError(text)


def unavailable(name: str, error: BaseException, timeout: float) -> NodeUnavailableError:
    """Return the error of a node that did not answer; it never holds the node's URL."""
    told = NodeUnavailableError(f"node {name!r} {_what_happened(error, timeout)}")
    told.__cause__ = error
    return told


def _what_happened(error: BaseException, timeout: float) -> str:
    if isinstance(error, _TIMEOUTS):
        return f"did not answer within {timeout:g} s"
    if isinstance(error, redis.exceptions.AuthenticationError) or "NOAUTH" in str(error):
        return "refused the user or password"
    if "max number of clients" in str(error):
        return "takes no more connections (its maxclients)"
    if "DB index is out of range" in str(error) or "Invalid Database" in str(error):
        return "has no such database"
    cause = _causes(error)
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in cause):
        return f"could not be trusted: {error}"
    if any(isinstance(each, socket.gaierror) for each in cause):
        return f"has a host of which no address is known: {error}"
    return f"is not reachable: {error or type(error).__name__}"


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and those that it was made of, the last first."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found
