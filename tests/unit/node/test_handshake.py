"""What a handshake sends, and which replies refuse a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from cachebackend.errors import NodeReplyError, RingCacheError
from cachebackend.node.handshake import CLIENT_NAME, Handshake
from cachebackend.node.translate import HandshakeError, NodeClosedError, reply_error

SETNAME = (b"CLIENT", b"SETNAME", CLIENT_NAME)
NOPERM = NodeReplyError("NOPERM this user has no permissions to run the command")
NOSCRIPT = NodeReplyError("NOSCRIPT No matching script")


class Exchange:
    """Records the commands of a handshake, and answers them with replies by name."""

    def __init__(self, **replies: Any) -> None:
        self.commands: list[Any] = []
        self._replies = {"EVALSHA": NOSCRIPT, "SET": None} | replies

    def __call__(self, commands: Sequence[Any]) -> Iterator[Any]:
        self.commands += commands
        for command in commands:
            reply = self._replies.get(command[0].decode(), b"OK")
            if isinstance(reply, OSError):
                raise reply
            yield reply

    async def submit(self, commands: Sequence[Any]) -> list[Any]:
        """Answer as ``__call__``, in an event loop."""
        return list(self(commands))


def in_loop(handshake: Handshake, exchange: Exchange) -> None:
    asyncio.run(handshake.perform_async(exchange.submit))


PERFORMS: dict[str, Callable[[Handshake, Exchange], None]] = {
    "blocking": lambda handshake, exchange: handshake.perform(exchange),
    "asyncio": in_loop,
}


@pytest.fixture(params=PERFORMS)
def perform(request: pytest.FixtureRequest) -> Callable[[Handshake, Exchange], None]:
    """Return a function that performs a handshake, in blocking code or in an event loop."""
    return PERFORMS[request.param]


def handshake_of(url: str, **given: Any) -> Handshake:
    return Handshake(url, 0.1, 0.2, **given)


@pytest.mark.parametrize(
    ("url", "begin"),
    [
        ("redis://h", [SETNAME]),
        ("redis://me:p%40ss@h:7/3", [(b"AUTH", "me", "p@ss"), SETNAME, (b"SELECT", b"3")]),
        ("redis://:secret@h?db=2", [(b"AUTH", "secret"), SETNAME, (b"SELECT", b"2")]),
        ("unix://:secret@/run/valkey.sock?db=1", [(b"AUTH", "secret"), SETNAME, (b"SELECT", b"1")]),
        ("redis+sentinel://:secret@s1,s2:9/shop/2", [(b"AUTH", "secret"), SETNAME, (b"SELECT", b"2")]),
    ],
)
def test_the_url_names_login_and_database(
    perform: Callable[[Handshake, Exchange], None], url: str, begin: list[Any]
) -> None:
    """Decoded. Behind Sentinel they are those of the primary."""
    exchange = Exchange()
    perform(handshake_of(url), exchange)
    assert exchange.commands[: len(begin)] == begin
    assert [command[0] for command in exchange.commands[len(begin) :]] == [b"EVALSHA", b"SET"]


def test_no_command_has_a_number() -> None:
    """Hiredis formats numbers in Python, and a signal handler that raises there ends the process."""
    exchange = Exchange()
    handshake_of("redis://me:secret@h/3").perform(exchange)
    assert {isinstance(each, bytes | str) for command in exchange.commands for each in command} == {True}


@pytest.mark.parametrize("may_run_scripts", [True, False])
@pytest.mark.parametrize("may_write", [True, False])
def test_a_user_that_may_write_must_be_allowed_to_run_scripts(may_run_scripts: bool, may_write: bool) -> None:
    """Any other error, such as that of an unknown script, says that the command is allowed."""
    exchange = Exchange(EVALSHA=NOSCRIPT if may_run_scripts else NOPERM, SET=None if may_write else NOPERM)
    if may_write and not may_run_scripts:
        with pytest.raises(HandshakeError, match="not run scripts"):
            handshake_of("redis://h").perform(exchange)
    else:
        handshake_of("redis://h").perform(exchange)


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ({"AUTH": reply_error("WRONGPASS invalid username-password pair")}, "refused the user or password"),
        (
            {"AUTH": reply_error("ERR Client sent AUTH, but no password is set")},
            "refused the user or password",
        ),
        ({"CLIENT": reply_error("NOAUTH Authentication required.")}, "refused the user or password"),
        ({"AUTH": reply_error("ERR max number of clients reached")}, "accepts no more connections"),
        ({"SELECT": reply_error("ERR DB index is out of range")}, "has no such database"),
        ({"SELECT": reply_error("NOPERM no permissions")}, "refused the connection: NOPERM"),
        (
            {"CLIENT": reply_error("DENIED Redis is running in protected mode")},
            "refused the connection: DENIED",
        ),
    ],
)
def test_a_refusal_says_what_is_refused(
    perform: Callable[[Handshake, Exchange], None], replies: dict[str, RingCacheError], reason: str
) -> None:
    """In plain words, and without the password."""
    with pytest.raises(HandshakeError, match=f"^{reason}") as raised:
        perform(handshake_of("redis://me:hunter2@h/3"), Exchange(**replies))
    assert "hunter2" not in str(raised.value)


def test_a_user_that_may_not_name_its_connection_is_not_refused(
    perform: Callable[[Handshake, Exchange], None],
) -> None:
    """The name only helps those who read ``CLIENT LIST``."""
    perform(handshake_of("redis://h"), Exchange(CLIENT=NOPERM))


def test_a_refusal_is_reported_although_the_node_closes_the_connection_after_it(
    perform: Callable[[Handshake, Exchange], None],
) -> None:
    """A node at its limit of clients answers once; the commands after it were sent already."""
    replies = {"CLIENT": reply_error("ERR max number of clients reached"), "SET": NodeClosedError()}
    with pytest.raises(HandshakeError, match="accepts no more connections"):
        perform(handshake_of("redis://h"), Exchange(**replies))


def test_the_errors_of_a_handshake_have_no_frames_with_the_password(
    perform: Callable[[Handshake, Exchange], None],
) -> None:
    """An error page shows the local variables of each frame."""
    with pytest.raises(NodeClosedError) as raised:
        perform(handshake_of("redis://me:hunter2@h"), Exchange(AUTH=NodeClosedError()))
    variables = [entry.frame.f_locals for entry in raised.traceback[1:]]
    assert "hunter2" not in repr(variables)
