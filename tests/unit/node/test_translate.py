"""The errors of sockets and nodes, translated to ours."""

from __future__ import annotations

import socket
import ssl

import pytest

from cachebackend.errors import MovingSlotError, NodeReplyError, NodeUnavailableError
from cachebackend.node.translate import (
    HandshakeError,
    NodeClosedError,
    ProtocolError,
    pack_command,
    reply_error,
    unavailable,
)


@pytest.mark.parametrize(
    ("text", "ejects"),
    [
        ("LOADING Redis is loading the dataset in memory", True),
        ("MASTERDOWN Link with MASTER is down", True),
        ("OOM command not allowed when used memory > 'maxmemory'.", False),
        ("READONLY You can't write against a read only replica.", False),
    ],
)
def test_a_node_that_cannot_serve_is_unavailable(text: str, ejects: bool) -> None:
    """It counts towards ejection unless it still serves reads."""
    error = reply_error(text)
    assert isinstance(error, NodeUnavailableError)
    assert error.ejects is ejects
    assert str(reply_error(text, "q")) == f"node 'q' cannot serve: {text}"


def test_a_slot_that_is_being_moved_refuses_scripts_of_several_keys() -> None:
    """Nothing was executed, and the server is not ejected."""
    error = reply_error("TRYAGAIN Multiple keys request during rehashing of slot")
    assert isinstance(error, MovingSlotError)
    assert (error.was_sent, error.ejects) == (False, False)


def test_another_error_reply_has_its_code() -> None:
    """The code is its first word."""
    error = reply_error("WRONGTYPE Operation against a key holding the wrong kind of value")
    assert isinstance(error, NodeReplyError)
    assert error.code == "WRONGTYPE"


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError(), "did not answer within 0.25 s"),
        (ssl.SSLWantReadError(), "did not answer within 0.25 s"),
        (HandshakeError("has no such database"), "has no such database"),
        (
            caused(ConnectionError("Error 1"), ssl.SSLCertVerificationError("expired")),
            "has a TLS certificate that cannot be verified",
        ),
        (
            caused(ConnectionError("Error -2"), socket.gaierror(-2, "unknown")),
            "has a host name that cannot be resolved",
        ),
        (
            ProtocolError('Protocol error, got "H" as reply type byte'),
            "does not speak Redis' protocol: is its port that of a Redis or Valkey server?",
        ),
        (
            NodeClosedError(),
            "closed the connection: it was restarted, or its port is not that of a Redis or Valkey server",
        ),
        (ConnectionResetError("reset by peer"), "is not reachable: reset by peer"),
        (ConnectionRefusedError(), "is not reachable: ConnectionRefusedError"),
    ],
)
def test_the_reason_is_in_plain_words(error: BaseException, reason: str) -> None:
    """The message names the node, and the original error is the cause."""
    translated = unavailable("a", error, 0.25)
    assert str(translated).startswith(f"node 'a' {reason}")
    assert translated.__cause__ is error


def test_a_command_is_packed_as_the_protocol_requires() -> None:
    """Bytes and text become strings of the protocol."""
    assert pack_command((b"SET", "k", b"1")) == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\n1\r\n"
