"""Translates commands to bytes, and the errors of sockets and nodes to our errors."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import partial

import hiredis

from cachebackend.effects import Command
from cachebackend.errors import (
    MovingSlotError,
    NodeReplyError,
    NodeUnavailableError,
    RedirectedError,
    RingCacheError,
    UnservedSlotError,
)
from cachebackend.interrupts import raise_interrupt

__all__ = [
    "CONNECTION_ERRORS",
    "INCOMPLETE",
    "LISTS",
    "UNREADABLE",
    "HandshakeError",
    "MalformedReplyError",
    "NodeClosedError",
    "ProtocolError",
    "check_reply_bytes",
    "is_timeout",
    "make_reader",
    "misfit",
    "pack_command",
    "readable",
    "reply_error",
    "surplus",
    "unavailable",
]

#: Returns the bytes of a command; the type stub of hiredis knows tuples of one argument only.
pack_command: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]

#: Returned by a reader: the bytes are not a whole reply yet.
INCOMPLETE = object()
#: The most bytes of a reply, for each argument of its command. A Redis string is not longer.
MAX_REPLY_BYTES = 512 * 1024 * 1024
#: The first byte of a list, map, set, push message or attribute.
LISTS = frozenset(b"*%~>|")
#: The errors, beside MalformedReplyError, that parsing a reply raises: for a list that claims to be larger
#: than the memory, and for a list as a key.
UNREADABLE = (MemoryError, TypeError)


class MalformedReplyError(ConnectionError):
    """The bytes that a node sent are not the reply to a command; the connection cannot be used any more."""


class ProtocolError(MalformedReplyError):
    """The bytes that a node sent do not follow Redis' protocol."""


class NodeClosedError(ConnectionResetError):
    """The node closed the connection."""


class HandshakeError(ConnectionError):
    """The node refused the connection. The message says what it did, and follows the node's name."""


#: The errors that a failed connection raises.
CONNECTION_ERRORS = (OSError,)

#: The errors of a timeout: Python's, and Python's under TLS.
_TIMEOUTS = (TimeoutError, ssl.SSLWantReadError)

#: Errors by which a node says that it cannot serve any client now.
_CANNOT_SERVE = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOAUTH", "NOREPLICAS", "OOM", "READONLY"}
)

#: Errors by which a server of a cluster names the one that has the key.
_REDIRECTIONS = frozenset({"ASK", "MOVED"})

#: The error for a key whose slot has no server, while the rest of the cluster works.
_UNSERVED = "CLUSTERDOWN Hash slot not served"

#: The errors of these that concern writes only.
_SERVES_READS = frozenset({"MISCONF", "NOREPLICAS", "OOM", "READONLY"})


def make_reader(name: str) -> hiredis.Reader:
    """Return a parser of replies; it returns INCOMPLETE, and raises MalformedReplyError or UNREADABLE.

    Args:
        name: The node's name, for the errors that it answers.
    """
    make_error = partial(reply_error, name=name)
    return hiredis.Reader(protocolError=ProtocolError, replyError=make_error, notEnoughData=INCOMPLETE)


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Raise MalformedReplyError for a reply that redis-py cannot read: it expects valid replies.

    Every call of redis-py that reads a reply is made in this block.
    """
    try:
        yield
    except (*UNREADABLE, AttributeError, LookupError, ValueError) as error:
        raise_interrupt(error)
        raise MalformedReplyError(repr(error)) from error


def misfit(command: Command) -> MalformedReplyError:
    """Return the error for a reply that cannot be the reply to its command."""
    name = command[0]
    return MalformedReplyError(
        f"the reply to {name.decode() if isinstance(name, bytes) else name} has another form"
    )


def check_reply_bytes(received: int, command: Command) -> None:
    """Check how many bytes of the reply to a command a node has sent so far.

    Raises:
        MalformedReplyError: A Redis string is not so long, and the reply holds at most one for each argument.
    """
    if received > len(command) * MAX_REPLY_BYTES:
        message = f"a reply has more than {MAX_REPLY_BYTES:,} bytes for each argument of its command"
        raise MalformedReplyError(message)


def surplus() -> MalformedReplyError:
    """Return the error for a reply that no command has asked for."""
    return MalformedReplyError("there are more replies than commands")


def reply_error(text: str, name: str = "") -> RingCacheError:
    """Return our error for a node's error reply."""
    code = text.partition(" ")[0]
    if text == _UNSERVED:
        return UnservedSlotError("no server of the cluster has the slot of the key; see CLUSTER SHARDS")
    if code in _CANNOT_SERVE:
        error = NodeUnavailableError(f"{f'node {name!r}' if name else 'the node'} cannot serve: {text}")
        error.ejects = code not in _SERVES_READS
        return error
    if code == "TRYAGAIN":
        return MovingSlotError()
    if code in _REDIRECTIONS:
        try:
            return RedirectedError.read(text)
        except ValueError as error:  # another form is an error as any other
            raise_interrupt(error)
    return NodeReplyError(text)


def unavailable(name: str, error: BaseException, timeout: float) -> NodeUnavailableError:
    """Return our error for a node that did not answer; its message never contains the node's URL."""
    translated = NodeUnavailableError(f"node {name!r} {_reason(error, timeout)}")
    translated.__cause__ = error
    return translated


def is_timeout(error: BaseException | None) -> bool:
    """Return whether a connection failed because the node did not answer in time."""
    return isinstance(error, _TIMEOUTS)


def _reason(error: BaseException, timeout: float) -> str:
    if is_timeout(error):
        return f"did not answer within {timeout:g} s"
    if isinstance(error, HandshakeError):
        return str(error)
    chain = _causes(error)
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in chain):
        return f"has a TLS certificate that cannot be verified: {error}"
    if any(isinstance(each, socket.gaierror) for each in chain):
        return f"has a host name that cannot be resolved: {error}"
    if isinstance(error, ProtocolError):
        return f"does not speak Redis' protocol: is its port that of a Redis or Valkey server? ({error})"
    if isinstance(error, MalformedReplyError):
        return f"sent bytes that are not the reply to a command: {error}"
    if isinstance(error, NodeClosedError):
        return "closed the connection: it was restarted, or its port is not that of a Redis or Valkey server"
    return f"is not reachable: {str(error) or type(error).__name__}"


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and its causes, the error itself first."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain
