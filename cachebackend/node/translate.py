"""Commands to the wire, and the errors of sockets, redis-py and servers to ours."""

from __future__ import annotations

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
    if isinstance(error, BlockingIOError | TimeoutError | redis.exceptions.TimeoutError):
        told = NodeUnavailableError(f"node {name!r} did not answer within {timeout:g} s")
    elif isinstance(error, redis.exceptions.AuthenticationError):
        told = NodeUnavailableError(f"node {name!r} refused the user or password")
    else:
        told = NodeUnavailableError(f"node {name!r} is not reachable: {error or type(error).__name__}")
    told.__cause__ = error
    return told
