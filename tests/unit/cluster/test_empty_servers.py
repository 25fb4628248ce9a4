"""The servers without slots are asked for at all primaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cachebackend.cluster.empty_servers import empty_servers
from cachebackend.cluster.topology import Server
from cachebackend.effects import Command, Reply
from cachebackend.errors import NodeReplyError, NodeUnavailableError, RingCacheError
from tests.unit.cluster.shards import A, Answered, B, C

EMPTY: Reply = [b"port", 9, b"endpoint", b"new.test", b"role", b"master"]
NAMES_ONE: Reply = [[b"slots", [], b"nodes", [EMPTY]]]


class Shard:
    """A shard that answers when it is asked to; it records that."""

    def __init__(self, server: Server, reply: Reply, events: list[str]) -> None:
        self.server, self._reply, self._events = server, reply, events

    def send(self, _: Sequence[Command]) -> Answered:
        self._events.append("send")
        return Receiving([self._reply], self._events)


class Receiving(Answered):
    """Records that its replies are read."""

    def __init__(self, replies: list[Reply], events: list[str]) -> None:
        super().__init__(replies)
        self._events = events

    def receive(self) -> list[Reply]:
        self._events.append("receive")
        return super().receive()


def test_all_primaries_are_asked_at_the_same_time() -> None:
    """The time does not grow with their number. One that fails is ejected; one that refuses is reported."""
    events: list[str] = []
    refused: list[RingCacheError] = []
    replies: list[Reply] = [NodeUnavailableError("timed out"), NodeReplyError("NOPERM"), NAMES_ONE]
    shards: list[Any] = [
        Shard(server, reply, events) for server, reply in zip((A, B, C), replies, strict=True)
    ]
    found = empty_servers(shards, lambda host, port: (host, port), refused.append, is_tls=False)
    assert (found, refused) == ([("new.test", 9)], [replies[1]])
    assert events == ["send"] * 3 + ["receive"] * 3
