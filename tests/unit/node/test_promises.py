"""WAIT or WAITAOF comes after promises, and its reply decides whether they are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import pytest

from cachebackend.effects import Command, Reply
from cachebackend.errors import NodeReplyError, NodeUnavailableError, UnconfirmedError
from cachebackend.node.blocking import Connection
from cachebackend.node.node import Node, PendingReplies
from cachebackend.node.promises import DiskWait, PromiseWait, ReplicaWait, Wait
from cachebackend.options import NodeAddress
from cachebackend.protocol.ring.node_deletes import delete_command
from tests.unit.protocol.stepping import StillClock

GET, DELETE = (b"GET", b"a"), delete_command([b"a"])
#: The same delete, which writes although there is nothing to delete.
WRITTEN = DELETE.writing
WAIT, SHORT = (b"WAIT", b"1", b"125"), (b"WAIT", b"1", b"1")


def test_only_promises_wait() -> None:
    """A read needs no replica. A promise makes a write in any case, for which its connection waits."""
    assert WRITTEN[1] != DELETE[1]
    assert DELETE.with_source.writing == WRITTEN.with_source
    assert WRITTEN.writing is WRITTEN
    wait = PromiseWait(ReplicaWait(1, 0.25))
    assert wait.added([GET]) == [GET]
    assert wait.settled([GET], [b"1"]) == [b"1"]
    assert wait.added([GET, DELETE]) == [GET, WRITTEN, WAIT]


def test_a_promise_that_a_replica_has_is_kept() -> None:
    """Its reply is the node's."""
    wait = PromiseWait(ReplicaWait(1, 0.25))
    assert wait.settled([GET, DELETE], [b"1", 1, 1]) == [b"1", 1]


def test_a_promise_without_replica_has_failed() -> None:
    """The other replies are the node's, and the node is not ejected; the next calls wait only briefly."""
    clock = StillClock()
    wait = PromiseWait(ReplicaWait(1, 0.25, clock))
    first, second = wait.settled([GET, DELETE], [b"1", 1, 0])
    assert first == b"1"
    assert isinstance(second, UnconfirmedError)
    assert (second.ejects, second.was_sent) == (False, True)
    assert "0 of 1 replicas" in str(second)
    assert second.reply == 1
    assert wait.added([DELETE]) == [WRITTEN, SHORT]
    wait.settled([DELETE], [1, 0])
    assert wait.added([DELETE]) == [WRITTEN, SHORT]
    wait.settled([DELETE], [1, 1])
    assert wait.added([DELETE]) == [WRITTEN, WAIT]


def test_a_replica_that_is_back_may_need_longer_than_a_millisecond() -> None:
    """One call a second waits in full, so that a slow replica is found again."""
    clock = StillClock()
    wait = PromiseWait(ReplicaWait(1, 0.25, clock))
    wait.settled([DELETE], [1, 0])
    clock.at += 1.0
    assert wait.added([DELETE]) == [WRITTEN, WAIT]
    wait.settled([DELETE], [1, 0])
    assert wait.added([DELETE]) == [WRITTEN, SHORT]
    clock.at += 1.0
    assert wait.added([DELETE]) == [WRITTEN, WAIT]
    wait.settled([DELETE], [1, 1])
    assert wait.added([DELETE]) == [WRITTEN, WAIT]


@pytest.mark.parametrize("wait", [ReplicaWait(1, 0.25), DiskWait(1500)])
def test_an_error_of_wait_is_the_reply_to_the_promise(wait: Wait) -> None:
    """The node may have executed the promise, so it is not refused; an error of the promise itself stays."""
    refused = NodeReplyError("NOSCRIPT")
    error: Reply = NodeReplyError("ERR WAIT cannot be used with replica instances")
    unconfirmed, other = PromiseWait(wait).settled([DELETE, DELETE], [1, refused, error])
    assert isinstance(unconfirmed, UnconfirmedError)
    assert (str(unconfirmed), unconfirmed.__cause__, other) == (str(error), error, refused)


def test_a_promise_may_wait_for_the_disk_of_the_node_and_for_replicas() -> None:
    """Both must confirm it."""
    wait = PromiseWait(ReplicaWait(1, 0.25), DiskWait(1500))
    assert wait.added([GET, DELETE]) == [GET, WRITTEN, WAIT, (b"WAITAOF", b"1", b"0", b"1500")]
    assert wait.settled([DELETE], [1, 1, [1, 0]]) == [1]
    for replies, says in (([1, [0, 0]], "the disk of the node has not"), ([0, [1, 0]], "0 of 1 replicas")):
        [unconfirmed] = wait.settled([DELETE], [1, *replies])
        assert isinstance(unconfirmed, UnconfirmedError)
        assert says in str(unconfirmed)


class Broken:
    """A connection that the node closes after the reply to the first command."""

    def replies(self, sent: Sequence[Command]) -> Iterator[Reply]:
        del sent
        yield 1
        raise ConnectionResetError

    def close(self) -> None: ...


def test_a_promise_has_failed_if_the_node_dies_before_its_replicas_confirm() -> None:
    """Although the node itself has answered the command: it may be lost with the node."""
    node = Node(NodeAddress("a", 1.0, "redis://unused"), 0.25, 0.25)
    node.promise_wait = PromiseWait(ReplicaWait(1, 0.25))
    sent = node.promise_wait.added([DELETE])
    broken = cast("Connection", Broken())
    [reply] = PendingReplies(node, [DELETE], broken, None, sent).receive()
    assert isinstance(reply, NodeUnavailableError)
    assert reply.was_sent
