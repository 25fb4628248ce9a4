"""A node that gives one valid reply again and again ends no call late: it has failed, and is ejected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import caches
from django.test import override_settings

from cachebackend import RingCache, protocol
from cachebackend.client.queue import QueueClient
from cachebackend.errors import RingCacheError
from cachebackend.options import WriteBehindOptions
from cachebackend.protocol import rounds
from cachebackend.protocol.queue import Partition
from tests.fuzz.test_replies import ASYNC_OPERATIONS, EXPECTED, OPERATIONS
from tests.integration.fake_node import NIL, FakeNode, bulk

#: More commands than any bounded call sends. After them the node closes its connections, so that a call
#: without a bound ends, and the test fails.
MANY = 3000
PARTITION = Partition("shop.meter", 0)
_numbers = count(1)


def scanned(cursor: Callable[[], bytes]) -> Callable[[list[bytes]], bytes]:
    """Return the replies of a node whose scans never end."""

    def answer(command: list[bytes]) -> bytes:
        if command[0] in {b"SCAN", b"HSCAN"}:
            return b"*2\r\n" + bulk(cursor()) + b"*0\r\n"
        return NIL if command[0] == b"GET" else b":0\r\n"

    return answer


ANSWERS: dict[str, Callable[[list[bytes]], bytes]] = {
    "OK": lambda _: b"+OK\r\n",
    "a released lease": lambda _: bulk(b"L"),
    "a lease": lambda _: bulk(b"L" + b"a" * 16),
    "another lease each time": lambda _: bulk(b"L%016d" % next(_numbers)),
    "a quarantine": lambda _: bulk(b"Q" + b"a" * 16),
    "a stale value": lambda _: bulk(b"Sm\0\x01"),
    "a tag": lambda _: bulk(b"T" + b"a" * 16),
    "a value": lambda _: bulk(b"Vm\0\x01"),
    "nothing": lambda _: NIL,
    "0": lambda _: b":0\r\n",
    "-1": lambda _: b":-1\r\n",
    "a script that is unknown": lambda _: b"-NOSCRIPT none\r\n",
    "another type": lambda _: b"-WRONGTYPE no\r\n",
    "a scan that repeats its cursor": scanned(lambda: b"5"),
    "a scan with a new cursor each time": scanned(lambda: b"%d" % next(_numbers)),
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    """A node; a scan of it has few pages, so that the tests are short."""
    monkeypatch.setattr(rounds, "MAX_PAGES", 1000)
    node = FakeNode()
    yield node
    node.close()


def repeat(fake: FakeNode, name: str) -> None:
    def answer(command: list[bytes]) -> bytes | None:
        return ANSWERS[name](command) if len(fake.commands) < MANY else None

    fake.commands.clear()
    fake.answer = answer


@pytest.mark.parametrize("mode", [{}, {"lease_on_get": True}], ids=["plain", "lease_on_get"])
@pytest.mark.parametrize("name", ANSWERS)
def test_every_call_of_a_cache_ends(fake: FakeNode, name: str, mode: dict[str, Any]) -> None:
    """Blocking and in asyncio, after a bounded number of commands."""
    options = {"socket_timeout": 5, "lease_timeout": 0.02} | mode
    config = {"BACKEND": "cachebackend.RingCache", "LOCATION": [fake.url], "OPTIONS": options}
    with override_settings(CACHES=settings.CACHES | {"repeated": config}):
        cache: Any = caches.create_connection("repeated")
    for operation in [*OPERATIONS, *ASYNC_OPERATIONS]:
        repeat(fake, name)
        cache.client.nodes[0].breaker.close()
        try:
            if operation in ASYNC_OPERATIONS:
                asyncio.run(_awaited(cache, operation))
            else:
                OPERATIONS[operation](cache)
        except (RingCacheError, *EXPECTED.get(operation, ())):
            pass
        assert len(fake.commands) < MANY, operation
    cache.close()
    cache.client.close()


async def _awaited(cache: RingCache, operation: str) -> None:
    await ASYNC_OPERATIONS[operation](cache)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("OK", lambda cache: cache.add("k", 1)),
        ("a scan that repeats its cursor", lambda cache: cache.keys("*")),
        ("a scan that repeats its cursor", lambda cache: cache.clear()),
    ],
)
def test_such_a_node_is_ejected(fake: FakeNode, name: str, call: Callable[[RingCache], object]) -> None:
    """It answers commands in between, so one such call is enough; the error says what the node did."""
    config = {"BACKEND": "cachebackend.RingCache", "LOCATION": [fake.url], "OPTIONS": {"socket_timeout": 5}}
    with override_settings(CACHES=settings.CACHES | {"repeated": config}):
        cache: Any = caches.create_connection("repeated")
    repeat(fake, name)
    call(cache)
    state = cache.client.nodes[0].breaker.state
    assert state.ejections == 1
    assert "again" in state.error
    cache.client.close()


def page_of(cursor: Callable[[], bytes]) -> bytes:
    return b"*2\r\n" + bulk(cursor()) + b"*0\r\n"


QUEUE_CALLS: dict[str, tuple[Callable[[list[bytes]], bytes], Callable[[QueueClient], object]]] = {
    "a batch that repeats its cursor": (
        lambda _: page_of(lambda: b"5"),
        lambda queue: queue.run(protocol.queue.contents(queue.context, 0, PARTITION, 1)),
    ),
    "a batch with a new cursor each time": (
        lambda _: page_of(lambda: b"%d" % next(_numbers)),
        lambda queue: queue.run(protocol.queue.contents(queue.context, 0, PARTITION, 1)),
    ),
    "a queue whose batches always move": (
        lambda command: (
            b"$-1\r\n"
            if command[0] == b"GET"
            else b"*1\r\n*4\r\n" + bulk(b"abcd") + bulk(b"2") + bulk(b"1") + bulk(b"seal")
        ),
        lambda queue: queue.run(protocol.queue.pending(queue.context, 0, PARTITION, [b"f"])),
    ),
}


@pytest.mark.parametrize("name", QUEUE_CALLS)
def test_every_call_of_a_queue_ends(fake: FakeNode, name: str) -> None:
    """The queue node has failed, like one that does not answer."""
    answer, call = QUEUE_CALLS[name]
    fake.answer = lambda command: answer(command) if len(fake.commands) < MANY else None
    queue = QueueClient(WriteBehindOptions.read({"nodes": [fake.url], "socket_timeout": 5}))
    with pytest.raises(RingCacheError, match="again"):
        call(queue)
    assert len(fake.commands) < MANY
    assert queue.nodes[0].is_ejected
    queue.close()
