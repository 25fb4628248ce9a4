"""The stand-in for two servers between which a slot moves gives the replies of a real cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

from cachebackend.effects import Command, Reply, ScriptCall
from cachebackend.errors import NodeReplyError, RedirectedError, RingCacheError
from cachebackend.node import Node
from cachebackend.node.blocking import Connection
from cachebackend.node.handshake import Handshake
from cachebackend.protocol.cache.quarantine import _QUARANTINE
from cachebackend.protocol.ring.node_deletes import delete_command
from cachebackend.ring import cluster_slot
from cacheproject.cluster import Cluster
from tests.interleavings.slot_pair import SERVERS, SlotPair

#: A key that moves, one of the same slot that does not exist at first, and one of another slot.
KEY, ABSENT, OTHER = b"{key}1", b"{key}2", b"other"
ASKING: Command = (b"ASKING",)
MINUTE = (b"PX", b"60000")


class RealPair:
    """Two primaries of a cluster, with the steps of the stand-in."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        source = cluster.primary_of(cluster_slot(KEY))
        self._names = (source, next(name for name in cluster.primaries if name != source))
        self._move = cluster.move_slot(cluster_slot(KEY), self._names[1])
        self._connections = [self._connection(name) for name in self._names]

    def _connection(self, name: str) -> Connection:
        server = self._cluster.server(name)
        handshake = Handshake(f"redis://:{server.password}@127.0.0.1:{server.port}/0", 5.0, 5.0, None)
        return Connection(handshake, 5.0)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def begin_import(self, target: int) -> None:
        self._set_slot(target, "IMPORTING", 1 - target)

    def begin_migration(self, source: int) -> None:
        self._set_slot(source, "MIGRATING", 1 - source)

    def _set_slot(self, server: int, state: str, other: int) -> None:
        identity = self._cluster.identity(self._names[other])
        self._cluster.ask(self._names[server], "CLUSTER", "SETSLOT", self._move.slot, state, identity)

    def move_key(self, source: int, key: bytes) -> None:
        del source
        self._move.move_key(key)

    def give(self, server: int, owner: int) -> None:
        self._set_slot(server, "NODE", owner)

    def exchange(self, server: int, commands: Sequence[Command]) -> Iterator[Reply]:
        sent = [each.with_source if isinstance(each, ScriptCall) else each for each in commands]
        self._connections[server].send(sent)
        yield from self._connections[server].replies(sent)

    def comparable(self, reply: Reply) -> Any:
        """Return a redirection with the number of the server that it names, and the kind of an error."""
        if isinstance(reply, RedirectedError):
            ports = [self._cluster.server(name).port for name in self._names]
            return "MOVED" if reply.is_moved else "ASK", reply.slot, ports.index(reply.port)
        return code_of(reply)


def code_of(reply: Reply) -> Any:
    if isinstance(reply, NodeReplyError):
        return reply.code
    return type(reply) if isinstance(reply, RingCacheError) else reply


def comparable(reply: Reply) -> Any:
    if isinstance(reply, RedirectedError):
        ports = [server.port for server in SERVERS]
        return "MOVED" if reply.is_moved else "ASK", reply.slot, ports.index(reply.port)
    return code_of(reply)


#: What each server is asked after each step, with ASKING and without it. The last commands undo the others.
COMMANDS: tuple[Command, ...] = (
    (b"GET", KEY),
    (b"GET", ABSENT),
    (b"MGET", KEY, ABSENT),
    (b"MGET", KEY, KEY),
    (b"MGET", KEY, OTHER),
    (b"SET", ABSENT, b"lease", b"NX", b"GET", *MINUTE),
    (b"SET", ABSENT, b"filled", b"IFEQ", b"lease", *MINUTE),
    (b"SET", ABSENT, b"again", b"IFEQ", b"lease", *MINUTE),
    _QUARANTINE.call([ABSENT], bytes(16), b"60000"),
    delete_command((KEY, ABSENT)),
    delete_command((ABSENT,)),
    (b"DEL", ABSENT),
    (b"SET", KEY, b"value", b"XX", *MINUTE),
)
#: The steps of a move from server 0 to server 1. A step of one server alone is followed by a step of the
#: other one before that is asked, because the servers of a cluster report changes to each other.
STEPS: tuple[tuple[tuple[str, int, Any], ...], ...] = (
    (),
    (("begin_import", 1, ()),),
    (("begin_migration", 0, ()),),
    (("move_key", 0, (KEY,)),),
    (("give", 1, (1,)), ("give", 0, (1,))),
)


@pytest.fixture
def real(cluster: Cluster) -> Iterator[RealPair]:
    with closing(RealPair(cluster)) as pair:
        yield pair


def test_the_stand_in_gives_the_replies_of_a_cluster(
    real: RealPair, node: Node, spare: Node, compares_and_sets: bool
) -> None:
    """To each command, from each server, with ASKING and without, after each step of a move."""
    if not compares_and_sets:
        pytest.skip("these nodes have no SET … IFEQ")
    for each in (node, spare):
        each.call((b"DEL", KEY, ABSENT, OTHER))
    pair = SlotPair((node, spare), cluster_slot(KEY))
    stored: Command = (b"SET", KEY, b"value", *MINUTE)
    assert list(pair.exchange(0, [stored])) == list(real.exchange(0, [stored])) == [b"OK"]
    compared = 0
    for step in STEPS:
        for name, server, arguments in step:
            getattr(pair, name)(server, *arguments)
            getattr(real, name)(server, *arguments)
        for server in (0, 1):
            for commands in (COMMANDS, [part for command in COMMANDS for part in (ASKING, command)]):
                expected = [real.comparable(reply) for reply in real.exchange(server, commands)]
                found = [comparable(reply) for reply in pair.exchange(server, commands)]
                assert list(zip(commands, found, strict=True)) == list(
                    zip(commands, expected, strict=True)
                ), (
                    step,
                    server,
                )
                compared += len(found)
    assert compared == 3 * len(STEPS) * 2 * len(COMMANDS)
