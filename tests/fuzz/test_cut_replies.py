"""Valid replies that arrive in pieces: where they are cut changes nothing, for values of any bytes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from cachebackend.effects import Command
from cachebackend.node.blocking import Connection
from cachebackend.node.multiplexed import MultiplexedConnection
from cachebackend.node.translate import MalformedReplyError
from tests.fuzz.mutants import count
from tests.integration.fake_node import bulk

#: Values that look like the beginning of a reply at each of their places.
_LOOKALIKES = [b"*9999999\r\n", b">9999999\r", b"%1000000000\r\n", b"$-1\r\n", b"-ERR x\r\n", b":1\r\n"]


class Pieces:
    """A socket that receives one piece after the other, and then nothing."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)

    def recv(self, _: int) -> bytes:
        return next(self._pieces, b"")

    def send(self, data: bytes) -> int:
        """Send nothing: the replies do not depend on it."""
        return len(data)

    def sendall(self, _: bytes) -> None:
        """Send nothing, as ``send``."""

    def fileno(self) -> int:
        """Return any descriptor: nothing waits for it."""
        return 0

    def settimeout(self, _: float) -> None:
        """Wait for nothing."""


def blocking(pieces: Iterable[bytes]) -> Connection:
    """Return a connection whose node sends these pieces."""
    handshake: Any = SimpleNamespace(name="a", connect=lambda: Pieces(pieces), perform=lambda _: None)
    return Connection(handshake, 60.0)


def calls(commands: Sequence[Command], pieces: Sequence[bytes]) -> list[Any]:
    """Send one command and read its reply."""
    return [blocking(pieces).call(commands[0])]


def pipeline(commands: Sequence[Command], pieces: Sequence[bytes]) -> list[Any]:
    """Read the replies to all commands."""
    return list(blocking(pieces).replies(commands))


def messages(commands: Sequence[Command], pieces: Sequence[bytes]) -> list[Any]:
    """Read the replies as the tracking connection reads its messages."""
    connection = blocking(pieces)
    return [connection.read((b"PING",)) for _ in commands]


def tasks(commands: Sequence[Command], pieces: Sequence[bytes]) -> list[Any]:
    """Read the replies of several tasks, each of which has sent one or two commands."""

    async def run() -> list[Any]:
        transport: Any = SimpleNamespace(
            write=lambda _: None,
            get_write_buffer_size=lambda: 0,
            is_closing=lambda: True,
            abort=lambda: None,
        )
        connection = MultiplexedConnection(60.0, "a")
        connection.connection_made(transport)
        sent = [connection.submit(commands[start : start + 2]) for start in range(0, len(commands), 2)]
        for piece in pieces:
            connection.data_received(piece)
        connection.close()
        return [reply for batch in await asyncio.gather(*sent) for reply in batch]

    return asyncio.run(run())


READERS: dict[str, Callable[[Sequence[Command], Sequence[bytes]], list[Any]]] = {
    "one call": calls,
    "a pipeline": pipeline,
    "the tracking connection": messages,
    "tasks": tasks,
}


def value(generator: random.Random) -> bytes:
    """Return a user's value."""
    text = generator.choice(_LOOKALIKES)
    return b"x" * generator.randrange(len(text)) + text * generator.randrange(20)


def exchange(generator: random.Random) -> tuple[Command, bytes]:
    """Return a command and its valid reply."""
    values = [value(generator) for _ in range(generator.randrange(1, 4))]
    items = b"*%d\r\n%b" % (len(values), b"".join(map(bulk, values)))
    return generator.choice(
        [
            ((b"GET", b"k"), bulk(values[0])),
            ((b"SET", b"k", b"v"), b"+OK\r\n"),
            ((b"DEL", b"k"), b":1\r\n"),
            ((b"MGET", *values), items),
            ((b"SCAN", b"0"), b"*2\r\n" + bulk(b"0") + items),
            ((b"GET", b"k"), b"-ERR *9999999\r\n"),
        ]
    )


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    """Return a stream in pieces."""
    bounds = [0, *sorted(places), len(stream)]
    return [stream[start:end] for start, end in pairwise(bounds) if start < end]


@pytest.mark.parametrize("name", READERS)
def test_where_a_valid_reply_is_cut_changes_nothing(name: str) -> None:
    """A piece may begin inside of a value, which may look like the beginning of any reply."""
    generator, tried, read = random.Random(random.getrandbits(32)), count(10), READERS[name]
    for _ in tried:
        commands, replies = zip(
            *[exchange(generator) for _ in range(1 if name == "one call" else generator.randrange(1, 5))],
            strict=True,
        )
        stream = b"".join(replies)
        expected = [repr(reply) for reply in read(commands, [stream])]
        places = [[place] for place in range(1, len(stream))]
        places += [[generator.randrange(len(stream)) for _ in range(5)] for _ in range(10)]
        for each in (*places, range(len(stream))):
            pieces = cut(stream, each)
            assert [repr(reply) for reply in read(commands, pieces)] == expected, (pieces, each)
    print(f"{len(tried)} streams of valid replies, each cut at every place, read by {name}")


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", [b"*", b"%", b"~", b">", b"|"])
def test_a_list_that_is_too_long_is_refused_where_its_first_line_is_cut(name: str, kind: bytes) -> None:
    """The line that names its length may arrive in pieces, after other replies too."""
    line = kind + b"1000000000\r\n"
    for place in range(1, len(line)):
        with pytest.raises(MalformedReplyError, match="items"):
            READERS[name]([(b"GET", b"k")], cut(line, [place]))
    if name not in {"one call", "tasks"}:
        with pytest.raises(MalformedReplyError, match="items"):
            READERS[name]([(b"GET", b"k")] * 2, [b"$1\r\nx\r\n", *cut(line, [3])])
