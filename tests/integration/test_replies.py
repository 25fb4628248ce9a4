"""Nonsense from the other end of a connection is a failure of the node, and costs no more than one."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cachebackend import RingCache
from cachebackend.errors import NodeUnavailableError
from cachebackend.node import Node, translate
from cachebackend.node.breaker import EJECTED, FAILURES
from tests.integration.fake_node import NIL, FakeNode, bulk
from tests.waits import wait_until

A_VALUE = bulk(b"Vm\0\x01")
#: Bytes that are not the reply to any command that these tests send.
NONSENSE = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a list instead of a string": b"*1\r\n$1\r\na\r\n",
    "an integer that is too large": b":99999999999999999999999\r\n",
    "a length below -1": b"$-5\r\n",
    "a list longer than memory": b"*9223372036854775807\r\n",
    "a list of a billion items": b"*1073741823\r\n",
    "a message of a billion items": b">1073741823\r\n",
    "a list of a billion items in a list": b"*2\r\n+a\r\n*1073741823\r\n",
    "a list of a billion items after a reply": A_VALUE + b"*1073741823\r\n",
    "a map with a list as a key": b"%1\r\n*0\r\n+a\r\n",
    "a map": b"%1\r\n+a\r\n+b\r\n",
    "a boolean": b"#f\r\n",
    "a number": b",1.5\r\n",
    "lists in lists": b"*1\r\n" * 5000,
    "an invalidation message": b">2\r\n+invalidate\r\n*0\r\n",
    "an error in a list": b"*1\r\n-ERR no\r\n",
    "a text that does not end": b"+" + b"x" * 100_000,
    "a number that does not end": b":" + b"9" * 100,
    "a length that does not end": b"$" + b"9" * 100,
    "two replies": A_VALUE * 2,
    "a reply and the beginning of another": A_VALUE + b"*2\r\n",
}


def read_many(cache: RingCache) -> object:
    return cache.get_many(["a", "b"])


CALLS: dict[str, tuple[Callable[[RingCache], object], object]] = {
    "get": (lambda cache: cache.get("k", "missing"), "missing"),
    "get_many": (read_many, {}),
    "set": (lambda cache: cache.set("k", 1), False),
    "set_many": (lambda cache: cache.set_many({"k": 1}), ["k"]),
    "delete": (lambda cache: cache.delete("k"), False),
    "get_or_set": (lambda cache: cache.get_or_set("k", lambda: 7), 7),
    "aget": (lambda cache: asyncio.run(cache.aget("k", "missing")), "missing"),
    "aget_many": (lambda cache: asyncio.run(cache.aget_many(["a", "b"])), {}),
    "keys": (lambda cache: cache.keys("*"), []),
    "ttl": (lambda cache: cache.ttl("k"), 0),
}


@pytest.fixture
def fake() -> Iterator[FakeNode]:
    node = FakeNode()
    yield node
    node.close()


@pytest.fixture
def open_cache(fake: FakeNode, open_alias: Callable[..., RingCache]) -> Callable[..., RingCache]:
    """Makes an alias whose only node is the fake one, at the URL that it has then."""
    return lambda **options: open_alias([fake.url], **options)


@pytest.mark.parametrize("call", CALLS)
def test_nonsense_is_a_failure_of_the_node(
    fake: FakeNode, open_cache: Callable[..., RingCache], call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is counted like a node that does not answer, and the connection is not used again.

    No probe runs: the node answers it, and the failure would not be counted any more.
    """
    monkeypatch.setattr(Node, "_spawn", lambda *_: None)
    cache, (function, expected) = open_cache(), CALLS[call]
    breaker = cache.client.nodes[0].breaker
    assert breaker is not None
    for name, nonsense in NONSENSE.items():
        breaker.close()
        fake.answer = lambda _, nonsense=nonsense: nonsense
        assert function(cache) == expected, name
        assert breaker.has_failures, name
        assert not cache.client.nodes[0]._pool._idle, name
        fake.answer = lambda command: bulk(b"Vm\0\x05") if command[0] == b"GET" else NIL
        assert breaker.is_open or cache.get("other") == 5, name


def test_a_node_that_sends_only_nonsense_is_ejected(
    fake: FakeNode, open_cache: Callable[..., RingCache]
) -> None:
    """Its state names the cause."""
    cache = open_cache()
    fake.answer = lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n"
    for _ in range(FAILURES):
        assert cache.get("k") is None
    breaker = cache.client.nodes[0].breaker
    assert breaker is not None
    assert breaker.state.state == EJECTED
    assert "does not speak Redis' protocol" in breaker.state.error


def test_the_replies_before_a_surplus_one_are_not_believed(
    fake: FakeNode, open_cache: Callable[..., RingCache]
) -> None:
    """The surplus reply may have been the first: then each command would get the reply to the one before."""
    cache = open_cache()
    fake.answer = lambda command: A_VALUE * 2 if command[1].endswith(b"l") else NIL
    replies = cache.client.nodes[0].send([(b"GET", b"k"), (b"GET", b"l")]).receive()
    assert [type(reply) for reply in replies] == [NodeUnavailableError] * 2


@pytest.mark.parametrize("is_async", [False, True])
def test_a_long_list_behind_another_reply_is_not_read(
    fake: FakeNode, open_cache: Callable[..., RingCache], is_async: bool
) -> None:
    """They arrive together, so the parser has both."""
    node, commands = open_cache().client.nodes[0], [(b"GET", b"k"), (b"GET", b"l")]
    fake.answer = lambda command: A_VALUE + b"*1073741823\r\n" if command[1] == b"k" else b""

    async def submit() -> list[Any]:
        return await node.submit(commands)

    replies = asyncio.run(submit()) if is_async else node.send(commands).receive()
    assert "a reply with more than 1,000,000 items" in str(replies[1])


def test_a_surplus_reply_in_asyncio_closes_the_connection(
    fake: FakeNode, open_cache: Callable[..., RingCache]
) -> None:
    """The next command has a connection of its own."""
    cache = open_cache()
    fake.answer = lambda command: A_VALUE * 2 if command[1].endswith(b"k") else bulk(b"Vm\0\x02")

    async def run() -> list[object]:
        return [await cache.aget("k"), await cache.aget("l")]

    assert asyncio.run(run()) == [None, 2]


@pytest.mark.parametrize("call", ["get", "aget"])
def test_a_reply_has_a_largest_length(
    fake: FakeNode, open_cache: Callable[..., RingCache], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A node that announces a terabyte, and sends it, is left after the length of the longest string."""
    monkeypatch.setattr(translate, "MAX_REPLY_BYTES", 100_000)
    cache, (function, expected) = open_cache(), CALLS[call]
    fake.answer = lambda _: b"$1000000000000\r\n" + bytes(1_000_000)
    assert function(cache) == expected
    breaker = cache.client.nodes[0].breaker
    assert breaker is not None
    breaker.failed(NodeUnavailableError("x"), at_once=True)
    assert breaker.has_failures


#: Of these redis-py makes no error, and nobody reads the value: the connection is as good as any.
READABLE = {"a list instead of a string", "a map", "a boolean", "a number", "an error in a list"}
#: redis-py waits for the reply after it.
SKIPPED = {"an invalidation message"}


def drip(fake: FakeNode, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let a node send its replies byte by byte, without an end; return what ends it."""
    ended = threading.Event()

    def reply(connection: socket.socket, command: list[bytes]) -> bytes | None:
        if command[0] not in {b"GET", b"MGET"}:
            return FakeNode._reply(fake, connection, command)
        connection.sendall(b"$500000000\r\n")
        while not ended.wait(0.02):
            connection.sendall(b"x")
        return None

    monkeypatch.setattr(fake, "_reply", reply)
    return ended


@pytest.mark.parametrize("call", ["get", "get_many", "aget", "aget_many"])
def test_a_reply_byte_by_byte_is_a_timeout(
    fake: FakeNode, open_cache: Callable[..., RingCache], call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, but the reply does not."""
    cache, (function, expected) = open_cache(socket_timeout=0.1), CALLS[call]
    breaker = cache.client.nodes[0].breaker
    assert breaker is not None
    ended = drip(fake, monkeypatch)
    end = threading.Timer(20, ended.set)  # so that a call without a bound ends
    end.start()
    assert function(cache) == expected
    assert breaker.has_failures
    assert not ended.is_set()
    end.cancel()
    ended.set()


@pytest.mark.parametrize("call", ["get", "aget"])
def test_nonsense_in_a_handshake_is_a_failure_of_the_node(
    fake: FakeNode, open_cache: Callable[..., RingCache], call: str
) -> None:
    """As in a reply; a connection with a surplus reply is not used."""
    cache, (function, expected) = open_cache(), CALLS[call]
    breaker = cache.client.nodes[0].breaker
    assert breaker is not None
    fake.answer = lambda _: bulk(b"Vm\0\x07")
    for name, nonsense in (NONSENSE | {"a surplus reply": NIL * 2}).items():
        if name not in READABLE | SKIPPED:
            breaker.close()
            fake.handshake = lambda command, nonsense=nonsense: (
                nonsense if command[0] == b"SET" else b"+OK\r\n"
            )
            assert function(cache) == expected, name
            assert breaker.has_failures, name


#: What no sentinel answers, although it is a reply.
NO_PRIMARY = {
    "another protocol": NONSENSE["another protocol"],
    "an integer that is too large": NONSENSE["an integer that is too large"],
    "OK": b"+OK\r\n",
    "an integer": b":5\r\n",
    "nothing": b"*-1\r\n",
    "a primary without fields": b"*1\r\n*0\r\n",
    "a primary with its name alone": b"*1\r\n*2\r\n$4\r\nname\r\n$1\r\nm\r\n",
    "a field without a value": b"*1\r\n*3\r\n$4\r\nname\r\n$4\r\nshop\r\n$1\r\nx\r\n",
    "text that is not UTF-8": b"*1\r\n*2\r\n$4\r\nname\r\n$2\r\n\xff\xfe\r\n",
}


@pytest.mark.parametrize("call", ["get", "aget"])
def test_a_sentinel_that_answers_nonsense_is_a_failure_of_the_node(
    fake: FakeNode, open_cache: Callable[..., RingCache], call: str
) -> None:
    """As nonsense from the node itself: the call is a miss, and the node is ejected."""
    host = fake.url.removeprefix("redis://").partition("/")[0]
    fake.url = f"redis+sentinel://{host}/shop?name=fake"
    cache, (function, expected) = open_cache(), CALLS[call]
    breaker = cache.client.nodes[0].breaker
    assert breaker is not None
    for name, nonsense in NO_PRIMARY.items():
        breaker.close()
        fake.answer = lambda _, nonsense=nonsense: nonsense
        assert function(cache) == expected, name
        assert breaker.has_failures, name


MESSAGES = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a number of keys": b">2\r\n$10\r\ninvalidate\r\n:5\r\n",
    "keys that are lists": b">2\r\n$10\r\ninvalidate\r\n*1\r\n*0\r\n",
    "no keys": b">1\r\n$10\r\ninvalidate\r\n",
    "a list longer than memory": b"*9223372036854775807\r\n",
}


@pytest.mark.parametrize("message", MESSAGES)
def test_the_tracking_thread_survives_any_message(
    fake: FakeNode,
    open_cache: Callable[..., RingCache],
    monkeypatch: pytest.MonkeyPatch,
    message: str,
) -> None:
    """The connection counts as lost, and is opened again."""
    monkeypatch.setattr("cachebackend.node.tracking.RETRY_SECONDS", 0.0)
    cache = open_cache(near={"max_entries": 10})
    cache.get("first")
    near = cache.client._near
    assert near is not None
    wait_until(lambda: near.tracked_nodes)
    fake.tracking[0].sendall(MESSAGES[message])
    wait_until(lambda: len(fake.tracking) > 1 and near.tracked_nodes)


@pytest.mark.usefixtures("empty_nodes")
def test_a_value_may_look_like_the_beginning_of_a_long_list(ring_cache: RingCache) -> None:
    """A real node's reply arrives in pieces, of which one or another begins with such bytes of the value."""
    for start in range(len(b"*9999999\r")):
        text = "x" * start + "*9999999\r" * 40_000
        ring_cache.set("k", text)
        assert ring_cache.get("k") == text
        assert asyncio.run(three_reads(ring_cache)) == [text] * 3


async def three_reads(cache: RingCache) -> list[Any]:
    return await asyncio.gather(*[cache.aget("k") for _ in range(3)])
